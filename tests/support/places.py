"""Where things lie in the repository, and how long tests wait."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS, EXAMPLES, SCRIPTS = ROOT / "docs", ROOT / "examples", ROOT / "scripts"
SUPPORT = ROOT / "tests" / "support"
WORKERS = SUPPORT / "workers"
TORCH_TPU_ON_CPU = SUPPORT / "torch_tpu_on_cpu"

SLOW = 10
"""How much slower than an idle machine of two cores the one that runs the tests may be.

A limit that only ends a test that hangs is what an idle machine needs, amply, times this.
"""


def python_path(*folders: Path) -> str:
    """The PYTHONPATH of a process that finds these folders, and torch_tpu's device if this process does."""
    ours = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    shared = [str(TORCH_TPU_ON_CPU)] if str(TORCH_TPU_ON_CPU) in ours else []
    return os.pathsep.join([*shared, *map(str, folders)])

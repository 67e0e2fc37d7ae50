"""Where things lie in the repository, and how long tests wait."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS, EXAMPLES, SCRIPTS = ROOT / "docs", ROOT / "examples", ROOT / "scripts"
SUPPORT = ROOT / "tests" / "support"
WORKERS = SUPPORT / "workers"

SLOW = 10
"""How much slower than an idle machine of two cores the one that runs the tests may be.

A limit that only ends a test that hangs is what an idle machine needs, amply, times this.
"""

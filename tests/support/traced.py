"""The report of scripts/trace_step.py on a compiled step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from places import SCRIPTS


def traced(tmp_path: Path, *options: str) -> dict[str, Any]:
    """The report of scripts/trace_step.py, in a process of its own: dumping is set at start-up."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(SCRIPTS / "trace_step.py"),
        "--out",
        str(tmp_path / "dump"),
        "--json",
    ]
    done = subprocess.run(
        [*command, "--vocabulary", "20000", "--batch-size", "64", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout)
    return report

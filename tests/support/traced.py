"""The report of scripts/trace_step.py on a compiled step."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from places import SCRIPTS, SLOW

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "torch_xla"])


def run_script(command: Sequence[str], printed: Path) -> None:
    """Run a Python script as its own program; what it prints goes to a file."""
    sys.argv = [*command]
    sys.path.insert(0, str(Path(command[0]).parent))
    with printed.open("w") as file, contextlib.redirect_stdout(file):
        runpy.run_path(command[0], run_name="__main__")


def traced(tmp_path: Path, *options: str) -> dict[str, Any]:
    """The report of scripts/trace_step.py, in a process of its own: dumping is set at start-up.

    The processes are forks of one that has imported torch and torch_xla and run nothing: most of what a
    short process costs are these imports.
    """
    printed = tmp_path / "report.json"
    command = [str(SCRIPTS / "trace_step.py"), "--out", str(tmp_path / "dump"), "--json"]
    command += ["--vocabulary", "20000", "--batch-size", "64", *options]
    process = FORKS.Process(target=run_script, args=(command, printed))
    process.start()
    process.join(30 * SLOW)
    process.kill()
    assert process.exitcode == 0, command
    report: dict[str, Any] = json.loads(printed.read_text())
    return report

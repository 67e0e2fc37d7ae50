"""The report of scripts/trace_step.py on a compiled step."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from places import SCRIPTS, SLOW
from processes.launch import environment, forked_python

RAGGED = ["--ids-per-sample", "3", "--ragged"]
USUAL_STEPS = [
    ["--optimizer", "SGD", "--dim", "16"],
    ["--optimizer", "Adagrad", "--linear", "--tables", "2"],
    ["--optimizer", "Adam", "--dim", "64", "--tables", "2", *RAGGED],
    ["--optimizer", "Adagrad", "--dim", "16", "--layout", "TPU", *RAGGED],
    ["--optimizer", "Adam", "--dim", "64", "--layout", "TPU", "--tables", "2"],
]
"""Options of scripts/trace_step.py: steps of each layout, of one table and of two."""


def usual_emitters() -> dict[str, str]:
    """Variables of a process whose programs a test looks at: with XLA's usual emitters, as users have."""
    flags = os.environ.get("XLA_FLAGS", "")
    return environment(XLA_FLAGS=flags.replace("--xla_cpu_use_fusion_emitters=false", ""))


def report_of(command: Sequence[str], seconds: float = 30 * SLOW) -> dict[str, Any]:
    """The JSON that a Python script prints, in a process of its own."""
    done = subprocess.run(
        [forked_python(), *command],
        capture_output=True, text=True, timeout=seconds, env=usual_emitters(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def traced(tmp_path: Path, *options: str) -> dict[str, Any]:
    """The report of scripts/trace_step.py, in a process of its own: dumping is set at start-up."""
    command = [str(SCRIPTS / "trace_step.py"), "--out", str(tmp_path / "dump"), "--json"]
    command += ["--vocabulary", "20000", "--batch-size", "64", *options]
    return report_of(command)

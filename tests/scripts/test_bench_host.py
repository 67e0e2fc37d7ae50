"""scripts/bench_host.py at its smallest: phases of traced and replayed steps are written and printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from places import SCRIPTS, SLOW


def test_phases_of_traced_and_replayed_steps_are_written(tmp_path: Path) -> None:
    command = [
        sys.executable, str(SCRIPTS / "bench_host.py"), "--workload", "small26", "--batch-size", "8",
        "--cap", "50", "--rounds", "1", "--steps", "2", "--warm-up", "6", "--loader-rounds", "0",
        "--json", str(tmp_path / "out.json"),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert ended.returncode == 0, ended.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written
    for word in ("small26", "traced", "replayed"):
        assert word in ended.stdout
        assert word in json.dumps(written)

"""scripts/bench_ids.py at its smallest: times of the map and its bytes are written and printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from places import SCRIPTS, SLOW


def test_times_of_all_cases_are_written_and_printed(tmp_path: Path) -> None:
    command = [
        sys.executable, str(SCRIPTS / "bench_ids.py"), "--rows", "3000", "--ids", "200", "--steps", "3",
        "--warm-up", "1", "--json", str(tmp_path / "out.json"),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert ended.returncode == 0, ended.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["maps"]) == 3 * 2 * 2 * 3
    for each in written["maps"]:
        assert len(each["samples"]) == 3
        assert 0 < each["ms"] < 1_000
        assert 20 < each["bytes_a_row"] < 50
    assert "| lfu | 2 | full |" in ended.stdout
    assert "bytes a row" in ended.stdout


def test_a_number_below_one_is_refused() -> None:
    command = [sys.executable, str(SCRIPTS / "bench_ids.py"), "--rows", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert ended.returncode == 2
    assert "0 is not above 0" in ended.stderr

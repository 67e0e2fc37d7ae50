"""The compiled program of a replayed step updates in place what the traced one does."""

from __future__ import annotations

import json
from pathlib import Path

from places import SLOW
from traced import FORKS, run_script


def test_tables_slots_weights_and_states_are_donated_as_in_the_traced_program(
    tmp_path: Path,
) -> None:
    script = Path(__file__).parent.parent / "support" / "replayed_program.py"
    printed = tmp_path / "report.json"
    command = [str(script), str(tmp_path / "dump")]
    process = FORKS.Process(target=run_script, args=(command, printed))
    process.start()
    process.join(60 * SLOW)
    process.kill()
    assert process.exitcode == 0
    report = json.loads(printed.read_text())
    assert report["traced"] == report["replayed"] == report["held"]

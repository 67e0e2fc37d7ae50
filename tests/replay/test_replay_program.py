"""The compiled program of a replayed step updates in place what the traced one does."""

from __future__ import annotations

from pathlib import Path

from places import SLOW, SUPPORT
from programs.traced import report_of


def test_tables_slots_weights_and_states_are_donated_as_in_the_traced_program(
    tmp_path: Path,
) -> None:
    script = SUPPORT / "programs" / "replayed_program.py"
    report = report_of([str(script), str(tmp_path / "dump")], 60 * SLOW)
    assert report["traced"] == report["replayed"] == report["held"]

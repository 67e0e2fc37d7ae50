"""Replays on several devices of one process, and on several processes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from places import WORKERS
from processes.launch import LIMIT, ended, start_fork, torchrun

WORKER = str(WORKERS / "replay_worker.py")


@pytest.mark.parametrize("devices", [2, 4])
def test_spmd_steps_are_replayed_bit_for_bit_on_several_devices(devices: int) -> None:
    process = start_fork([WORKER, "spmd"], CPU_NUM_DEVICES=str(devices))
    with ended(process):
        printed, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors[-3000:]
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    assert min(found["replayed"].values()) > 8, found


def test_processes_that_exchange_rows_through_gloo_are_traced_with_a_warning() -> None:
    process = torchrun("--nproc_per_node=2", "--redirects=0", WORKER, "gloo")
    with ended(process):
        printed, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors[-3000:]
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    assert len(lines) == 2
    for line in lines:
        found: dict[str, Any] = json.loads(line)
        assert found["losses"][0] == found["losses"][1]
        assert found["replayed"] == 0
        (said,) = found["said"]
        assert "it ends the step itself" in said

"""Tables in bfloat16 under one partitioned program are those of one device, bit for bit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from places import SLOW, WORKERS
from processes.launch import environment, forked_python

SCRIPT = WORKERS.parent / "programs" / "bfloat16_spmd.py"


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_round_as_one_does(tmp_path: Path, devices: int) -> None:
    found = []
    for count in (1, devices):
        path = tmp_path / f"{count}.pt"
        command = [forked_python(), "-W", "ignore", str(SCRIPT)]
        done = subprocess.run(
            [*command, str(count), str(path)],
            capture_output=True, text=True, timeout=120 * SLOW, env=environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(path))
    one, several = found
    for layout, state in one.items():
        assert several[layout]["compiled late"] == 0
        for key, value in state.items():
            if key.endswith(".weight"):
                assert torch.equal(several[layout][key], value), (layout, key)
                assert value.dtype == torch.bfloat16

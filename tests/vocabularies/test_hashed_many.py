"""Tables with a HashedVocabulary on several processes and devices train what one trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from processes import launch
from workers import hashed_worker


@pytest.mark.parametrize("kind", ["processes", "devices"])
def test_two_train_what_one_trains(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "vectors.json"
    command = [hashed_worker.__file__, str(out)]
    if kind == "processes":
        process = launch.torchrun(
            "--nproc_per_node=2", f"--master_port={launch.free_port()}", *command
        )
    else:
        process = launch.start(command, CPU_NUM_DEVICES="2")
    with launch.ended(process):
        _, errors = process.communicate(timeout=launch.LIMIT)
        assert process.returncode == 0, errors
    found, wanted = torch.tensor(json.loads(out.read_text())), torch.tensor(hashed_worker.run())
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)

"""The exchange between processes' devices, over gloo and with one process over tpu_dist.

Several devices cannot be had without TPUs, so `tpu_dist` is tried with one process, and the same functions
on host tensors between two.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT, SLOW

COUNT = 2
WORKER = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from torch_tpu_embedding.runtime.torch_tpu import collectives
folder, rank, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
backend = "gloo" if count > 1 else "cpu:gloo,tpu:tpu_dist"
device = "cpu" if count > 1 else "tpu"
dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=count)
value = (torch.arange(4.0 * count).view(2 * count, 2) + 100 * rank).to(device)
found = {
    "all_to_all": collectives.all_to_all(value.view(count, 2, 2), count).flatten(0, 1),
    "sum": collectives.sum_over_processes(value),
    "all_gather": collectives.all_gather(value, count),
    "reduce_scatter": collectives.reduce_scatter(value, count),
    "unchanged": value,
}
told = {name: each.cpu().tolist() for name, each in found.items()}
(folder / f"{rank}.json").write_text(json.dumps(told))
dist.barrier()
dist.destroy_process_group()
"""


def exchanged(folder: Path, count: int) -> list[dict[str, list[list[float]]]]:
    """The tensors that each of so many processes got."""
    command = [sys.executable, "-c", WORKER, str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank), str(count)], cwd=ROOT) for rank in range(count)
    ]
    for process in processes:
        assert process.wait(timeout=30 * SLOW) == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def test_two_processes_exchange_sum_and_join_their_parts(tmp_path: Path) -> None:
    first, second = exchanged(tmp_path, COUNT)
    start = [[2.0 * row, 2.0 * row + 1] for row in range(4)]
    other = [[each + 100 for each in row] for row in start]
    both = [[2 * each + 100 for each in row] for row in start]
    assert (first["unchanged"], second["unchanged"]) == (start, other)
    assert first["all_to_all"] == start[:2] + other[:2]
    assert second["all_to_all"] == start[2:] + other[2:]
    assert first["sum"] == second["sum"] == both
    assert first["all_gather"] == second["all_gather"] == start + other
    assert (first["reduce_scatter"], second["reduce_scatter"]) == (both[:2], both[2:])


@pytest.mark.torch_tpu
def test_one_process_alone_exchanges_with_itself_on_the_device(tmp_path: Path) -> None:
    (found,) = exchanged(tmp_path, 1)
    assert all(each == [[0, 1], [2, 3]] for each in found.values())

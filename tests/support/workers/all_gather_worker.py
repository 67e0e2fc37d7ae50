"""The processes of test_all_gather.py: two towers with in-batch negatives, trained for a few steps.

`all_gather_worker.py FOLDER` under torchrun, alone, or with CPU_NUM_DEVICES; each process writes
`rank-<rank>.json`. `all_gather_worker.py replicas FOLDER S` is the program of a process for each chip, with
threads for processes: see replicas_worker.py, which says what that needs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

os.environ["PJRT_DEVICE"] = "CPU"
if sys.argv[1] == "replicas":
    os.environ["CPU_NUM_DEVICES"] = sys.argv[3]
    os.environ["PJRT_CPU_ASYNC_CLIENT"] = "0"
    os.environ["XLA_THREAD_POOL_SIZE"] = "32"

import torch
from places import SLOW
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import distributed, runtime

B, D, STEPS = 12, 4, 4


def in_batch_loss(users: Tensor, items: Tensor, positions: Tensor) -> Tensor:
    """Softmax over the items of all samples, of which sample i has item i: the mean of the own samples."""
    every = distributed.all_gather(torch.cat([items, positions[:, None]], dim=1))
    own = positions[:, None] == every[:, -1]
    scores = users @ every[:, :-1].T
    return (scores.logsumexp(1) - torch.where(own, scores, 0.0).sum(1)).mean()


def train() -> dict[str, Any]:
    """Losses of the whole batch, dense weights, and the rows of the tables that this process holds."""
    users = tte.TableConfig(20, D, name="users", combiner="sum", optimizer=tte.Adagrad(0.1))
    items = tte.TableConfig(30, D, name="items", optimizer=tte.SGD(0.5))
    features = {"user": tte.FeatureConfig(users), "item": tte.FeatureConfig(items)}
    embedding = tte.TPUEmbedding(features, B, tte.SGD(0.1), seed=3)
    torch.manual_seed(0)
    towers = torch.nn.ModuleDict({"user": torch.nn.Linear(D, D), "item": torch.nn.Linear(D, D)})
    towers.to(embedding.device)
    optimizer = torch.optim.SGD(towers.parameters(), 0.1)
    drawn = torch.Generator().manual_seed(1)
    mine, _ = distributed.local_positions(B, B)
    ids = {name: torch.randint(20, (B,), generator=drawn)[mine] for name in features}

    def step() -> Tensor:
        activations = embedding(ids)
        outputs = [towers[name](activations[name]) for name in ("user", "item")]
        loss = in_batch_loss(*outputs, embedding.to_device(mine.float()))
        (loss / distributed.num_replicas()).backward()
        distributed.sum_gradients(towers.parameters())
        optimizer.step()
        embedding.apply_gradients()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    losses, compiled = [], []
    for _ in range(STEPS):
        loss = step()
        runtime.sync()
        losses.append(float(distributed.gather(loss.cpu()[None]).mean()))
        compiled.append(runtime.compile_count())
    return {
        "losses": losses,
        "compiled": compiled,
        "dense": [each.detach().cpu().tolist() for each in towers.parameters()],
        "tables": {
            key: value.tolist()
            for key, value in embedding.state_dict().items()
            if value.dim() == 2  # and not the extra state
        },
        "ids": {name: ids_of(embedding, number) for number, name in enumerate(["items", "users"])},
    }


def ids_of(embedding: tte.TPUEmbedding, number: int) -> list[int]:
    """The ids whose rows of a table this process holds."""
    table = embedding.resolved.tables[number]
    return [*embedding.placement.ids(number, table.vocabulary_size)]


def replicas(count: int) -> list[Any]:
    """The results of a join in the program, and of its backward, in each of so many replicas."""
    import torch_xla
    from processes.worlds import Board, ThreadGroup
    from torch_xla._internal import pjrt

    from torch_tpu_embedding.distributed.all_gather import gather_with_gradient

    together, one_at_a_time = threading.Barrier(count), threading.Lock()
    board, found = Board(count), [None] * count

    def sync() -> None:
        together.wait(timeout=30 * SLOW)
        with one_at_a_time:
            torch_xla.sync()
        together.wait(timeout=30 * SLOW)

    def run() -> None:
        group = ThreadGroup(board, torch_xla.runtime.global_ordinal())
        device = torch_xla.device()
        start = 1.0 + torch.arange(6.0).view(2, 3) + 10 * group.rank
        factor = torch.arange(6.0 * count).view(2 * count, 3) * (1 + group.rank)
        value = start.to(device).requires_grad_()
        joined = gather_with_gradient(value, group, in_program=True)
        (joined.square() * factor.to(device)).sum().backward()
        sync()
        assert value.grad is not None
        found[group.rank] = [each.detach().cpu().tolist() for each in (joined, value.grad)]
        sync()

    pjrt._run_thread_per_device(0, 1, run, pjrt._initialize_single_process)
    return found


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1] == "replicas":
        (Path(sys.argv[2]) / "replicas.json").write_text(json.dumps(replicas(int(sys.argv[3]))))
        os._exit(0)  # the threads of the runtime would wait for each other
    distributed.initialize()
    found = train()
    (Path(sys.argv[1]) / f"rank-{distributed.rank()}.json").write_text(json.dumps(found))
    distributed.shutdown()


if __name__ == "__main__":
    main()

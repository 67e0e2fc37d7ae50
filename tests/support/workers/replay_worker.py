"""Run by test_replay_many.py in processes of their own: `replay_worker.py spmd|gloo`.

Trains twins, one traced and one replayed, and prints what it found as one JSON object in the last line.
"""

from __future__ import annotations

import json
import sys
import warnings

import torch
from models.replays import Case, Step, assert_same, run
from torch import Tensor

import torch_tpu_embedding as tte


def clips(case: Case) -> Step:
    """A step that clips by norm."""

    def step(numbers: Tensor) -> Tensor:
        loss = case.loss(numbers)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = case.embedding.clip_grad_norm_(0.05, dense_parameters=case.model.parameters())
        case.dense_optimizer.step()
        case.embedding_optimizer.step()
        case.dense_optimizer.zero_grad()
        return loss.detach() + norm

    return step


def spmd() -> dict[str, object]:
    """Several devices of one process."""
    tte.runtime.use_spmd()
    found = {}
    for name, options in (
        ("adagrad", {}),
        ("adam", {"dense": "adam", "dropout": 0.3, "tables": tte.Adam(0.01)}),
        ("clipped", {"make": clips}),
        ("ragged", {"ragged": True}),
    ):
        traced, replayed = run(False, **options), run(True, **options)
        assert_same(traced.losses, replayed.losses, name)
        assert_same(traced.state, replayed.state, name)
        found[name] = replayed.step.replayed
    growth = [b - a for a, b in zip(replayed.compiles, replayed.compiles[1:], strict=False)]
    return {"replayed": found, "growth": growth, "devices": tte.distributed.num_replicas()}


def gloo() -> dict[str, object]:
    """One of several processes."""
    tte.distributed.initialize()
    torch.manual_seed(0)
    mine = slice(tte.distributed.rank() * 4, tte.distributed.rank() * 4 + 4)
    losses = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for replayed in (False, True):
            case = Case()

            def train_step(numbers: Tensor, case: Case = case) -> Tensor:
                loss = case.loss(numbers) / 2
                loss.backward()  # type: ignore[no-untyped-call]
                tte.distributed.sum_gradients(case.model.parameters())
                case.dense_optimizer.step()
                case.embedding_optimizer.step()
                case.dense_optimizer.zero_grad()
                return loss.detach()

            step = tte.replay(train_step, case.embedding, verify=2) if replayed else None
            losses.append([])
            for _ in range(8):
                features = {key: ids[mine] for key, ids in case.features().items()}
                case.embedding.enqueue(features)
                numbers = case.embedding.to_device(torch.randn(8, 4, generator=case.draws)[mine])
                losses[-1].append((step or train_step)(numbers).item())
                tte.runtime.sync()
    assert step is not None
    said = [str(each.message) for each in caught if "replay:" in str(each.message)]
    return {"losses": losses, "replayed": step.replayed, "said": said}


if __name__ == "__main__":
    print("\n" + json.dumps({"spmd": spmd, "gloo": gloo}[sys.argv[1]]()))

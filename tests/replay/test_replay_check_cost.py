"""A check of a program that is trusted: what it costs, and that copies kept in it are still found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models.replays import Case, UnseenCount
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime.torch_xla import programs

CHECK = 9
"""The trace of these cases that is looked at: the first call, two for trust, and then checks."""


def train(case: Case, step: Callable[[Tensor], Tensor], steps: int = 150) -> None:
    for _ in range(steps):
        step(case.next())


def test_checks_do_not_look_at_all_objects_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    case, whole, scans = Case(), programs.live_tensors, list[int]()

    def counted() -> list[Tensor]:
        scans.append(step.traced)
        return whole()

    monkeypatch.setattr(programs, "live_tensors", counted)
    step = tte.replay(case.step, case.embedding, verify=2, check_every=1)
    train(case, step, 60)
    checks = [number for number in scans if number > 4]
    assert step.traced > 25
    assert len(checks) < 5, "but where Python's collector came between"


@pytest.mark.parametrize("way", ["a clone", "an old tensor"])
def test_a_copy_that_only_a_check_keeps_is_found(way: str) -> None:
    case, kept, traces = Case(), list[Tensor](), UnseenCount()
    old = torch.zeros_like(case.model[0].weight)
    tte.runtime.sync()

    def train_step(numbers: Tensor) -> Tensor:
        if next(traces) == CHECK:
            weight = case.model[0].weight.detach()
            kept.append(weight.clone() if way == "a clone" else old.copy_(weight))
        return case.step(numbers)

    step = tte.replay(train_step, case.embedding, verify=2, check_every=8)
    with pytest.raises(tte.ReplayError, match=r"is kept|are kept"):
        train(case, step)
    assert next(traces) == CHECK + 1

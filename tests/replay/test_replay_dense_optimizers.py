"""`tte.dense_optimizers` in replayed steps: their numbers may change at every step, without a trace."""

from __future__ import annotations

import pytest
import torch
from models.replays import Case, twins

KINDS = ["SGD", "Adagrad", "Adam", "AdamW"]


@pytest.mark.parametrize("dense", KINDS)
def test_200_steps_under_a_schedule_are_as_traced_bit_for_bit_and_replayed(dense: str) -> None:
    schedulers: dict[int, torch.optim.lr_scheduler.LRScheduler] = {}

    def schedule(case: Case, k: int) -> None:
        if k:
            schedulers[id(case)].step()
        else:
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(case.dense_optimizer, 200)
            schedulers[id(case)] = cosine

    _, replayed = twins(dense=dense, dropout=0.3, steps=200, between=schedule, check_every=64)
    assert replayed.step.replayed >= 180
    assert replayed.step.reason == ""
    assert replayed.case.dense_optimizer.param_groups[0]["lr"] < 1e-3


def test_momentum_that_is_switched_off_is_traced_again_and_replayed_again() -> None:
    def switch(case: Case, k: int) -> None:
        case.dense_optimizer.param_groups[0]["momentum"] = 0.9 if k < 16 else 0.0

    _, replayed = twins(dense="SGD", steps=40, between=switch)
    assert replayed.step.replayed > 10


def test_a_rate_that_is_no_number_is_an_error_of_a_replayed_call_which_changes_nothing() -> None:
    _, replayed = twins(dense="Adagrad", steps=16)
    case, step = replayed.case, replayed.step
    (group,) = case.dense_optimizer.param_groups
    step(case.next())  # traced, for random numbers were drawn after the run
    before = [each.detach().cpu() for each in case.model.parameters()]
    numbers = case.next()
    taken = step.replayed
    group["lr"] = float("nan")
    with pytest.raises(ValueError, match="lr of param group 0 must be a finite number"):
        step(numbers)
    group["lr"] = 0.01
    now = [each.detach().cpu() for each in case.model.parameters()]
    assert all(map(torch.equal, before, now))
    step(numbers)
    assert step.replayed == taken + 1

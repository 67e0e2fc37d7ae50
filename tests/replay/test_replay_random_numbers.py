"""Random numbers of the device: a replayed run draws those of a traced one, whatever comes between."""

from __future__ import annotations

import torch
from models.replays import Case, assert_same, twins
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime.torch_xla import programs


def test_random_numbers_drawn_outside_are_those_that_a_traced_run_draws() -> None:
    noise: list[Tensor] = []

    def between(case: Case, k: int) -> None:
        if k in (10, 11, 17):
            noise.append(torch.rand(2, device=case.embedding.device))
        if k in (13, 19):
            tte.runtime.manual_seed(k)

    _, replayed = twins(between=between, dropout=0.3)
    assert replayed.step.replayed > 8
    drawn = [each.cpu() for each in noise]
    assert_same(drawn[:3], drawn[3:])


def test_a_look_at_the_random_numbers_changes_none() -> None:
    device = tte.runtime.device()
    drawn = []
    for looks in (False, True):
        tte.runtime.manual_seed(3)
        first = torch.rand(2, device=device)
        if looks:
            assert not programs.random_begins_anew(3)
        second = torch.rand(2, device=device)
        drawn.append(torch.stack([first, second]).cpu())
    assert torch.equal(*drawn)
    assert not torch.equal(*drawn[0]), "two draws of one step differ"


def test_steps_that_take_turns_are_all_replayed() -> None:
    cases = [Case(), Case(dropout=0.3)]
    steps = [tte.replay(each.step, each.embedding, verify=2, check_every=64) for each in cases]
    for _ in range(48):
        for case, step in zip(cases, steps, strict=True):
            step(case.next())
    # The first call, two for trust, and the checks after 1, 2, 4, 8 and 16 replays.
    assert [each.traced for each in steps] == [8, 8]


def test_a_step_is_replayed_after_any_step_that_was_traced() -> None:
    case, other = Case(), Case()
    step = tte.replay(case.step, case.embedding, verify=2, check_every=64)
    for _ in range(48):
        step(case.next())
        other.step(other.next())
        tte.runtime.sync()
    assert step.traced == 8


def test_a_step_that_is_seeded_anew_is_replayed() -> None:
    case, found = Case(dropout=0.5), []
    step = tte.replay(case.step, case.embedding, verify=2, check_every=64)
    for k in range(24):
        numbers = case.next()
        tte.runtime.manual_seed(k)
        found.append(step(numbers).cpu())
    assert step.traced <= 7
    twin = Case(dropout=0.5)
    for k, loss in enumerate(found):
        numbers = twin.next()
        tte.runtime.manual_seed(k)
        expected = twin.step(numbers)
        tte.runtime.sync()
        assert_same(loss, expected.cpu(), f"step {k}")

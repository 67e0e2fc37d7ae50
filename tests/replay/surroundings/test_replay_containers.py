"""Lists, dicts and arrays that a step itself changes, which a replayed step would not do."""

from __future__ import annotations

import copy
import itertools
import random
from array import array
from collections import Counter, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models.replays import Case, Step, twins
from torch import Tensor

import torch_tpu_embedding as tte


def counting(state: Any, count: Callable[[Any], int], advance: Callable[[Any], None]) -> Any:
    """Makes a step that doubles its loss at every fifth call, by its own count."""

    def make(case: Case) -> Step:
        own = state()

        def step(numbers: Tensor) -> Tensor:
            loss = case.loss(numbers)
            if count(own) % 5 == 4:
                loss = loss * 2
            advance(own)
            return case.update(loss)

        return step

    return make


def add_to(key: Any) -> Callable[[Any], None]:
    def add(state: Any) -> None:
        state[key] += 1

    return add


WAYS = {
    "list": counting(lambda: [0], lambda s: s[0], add_to(0)),
    "dict": counting(lambda: {"step": 0}, lambda s: s["step"], add_to("step")),
    "array": counting(lambda: np.zeros(2), lambda s: int(s[0]), add_to(0)),
    "tensor of the host": counting(lambda: torch.zeros(2), lambda s: int(s[0]), add_to(0)),
    "growing list": counting(list, len, lambda s: s.append(1)),
    "growing set": counting(set, len, lambda s: s.add(len(s))),
    "dict that is empty at first": counting(
        dict, lambda s: s.get("step", 0), lambda s: s.update(step=s.get("step", 0) + 1)
    ),
    "Counter": counting(Counter, lambda s: s["step"], add_to("step")),
    "defaultdict": counting(lambda: defaultdict(int), lambda s: s["step"], add_to("step")),
    "long list": counting(lambda: [0] * 300, len, lambda s: s.append(1)),
    "full deque": counting(
        lambda: deque([0], 1), lambda s: int(s[-1]), lambda s: s.append(s[-1] + 1)
    ),
    "UserDict": counting(lambda: UserDict(step=0), lambda s: s["step"], add_to("step")),
    "UserList": counting(lambda: UserList([0]), lambda s: s[0], add_to(0)),
    "bytearray": counting(lambda: bytearray(2), lambda s: s[0], add_to(0)),
    "array.array": counting(lambda: array("q", [0]), lambda s: s[0], add_to(0)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_count_that_the_step_keeps_in_a_container_is_said_and_traced(way: str) -> None:
    with pytest.warns(RuntimeWarning, match="it changes .*, which a replayed step does not do"):
        _, replayed = twins(make=WAYS[way], verify=2)
    assert replayed.step.replayed == 0


DRAWN = {
    "random.Random": (lambda: random.Random(1), lambda s: s.random()),
    "numpy's Generator": (lambda: np.random.default_rng(1), lambda s: s.random()),
    "of a BitGenerator": (lambda: np.random.PCG64(1), lambda s: s.random_raw() / 2**64),
    "numpy's RandomState": (lambda: np.random.RandomState(1), lambda s: s.random_sample()),
    "torch's Generator": (
        lambda: torch.Generator().manual_seed(1),
        lambda s: float(torch.rand(1, generator=s)),
    ),
    "SystemRandom": (random.SystemRandom, lambda s: 0.0 * s.random()),
    "itertools.count": (itertools.count, lambda s: next(s) % 5),
    "itertools.cycle": (lambda: itertools.cycle([1.0, 2.0, 3.0]), next),
    "generator": (lambda: (n % 7 for n in range(99)), next),
    "iterator of a list": (lambda: iter([*range(99)]), next),
}


@pytest.mark.parametrize("way", DRAWN)
def test_a_number_that_the_step_draws_by_a_generator_of_its_own_is_said_and_traced(
    way: str,
) -> None:
    make_source, draw = DRAWN[way]

    def make(case: Case) -> Step:
        source = make_source()

        def step(numbers: Tensor) -> Tensor:
            return case.update(case.loss(numbers) * (1.0 + draw(source)))

        return step

    with pytest.warns(RuntimeWarning, match="something in 'source'"):
        _, replayed = twins(make=make, verify=2)
    assert replayed.step.replayed == 0


def test_a_generator_that_is_seeded_between_steps_is_followed() -> None:
    """A step that draws from a copy changes nothing itself: each seed is a program of its own."""
    made: list[random.Random] = []

    def make(case: Case) -> Step:
        source = random.Random(0)
        made.append(source)

        def step(numbers: Tensor) -> Tensor:
            return case.update(case.loss(numbers) * (1.0 + copy.copy(source).random()))

        return step

    def reseed(case: Case, number: int) -> None:
        for each in made:
            each.seed(number // 12)

    _, replayed = twins(make=make, verify=2, between=reseed, steps=36)
    assert replayed.step.replayed > 8


def test_what_a_step_puts_into_a_dict_once_for_each_shape_does_not_keep_it_from_being_replayed() -> (
    None
):
    def make(case: Case) -> Step:
        factors: dict[str, float] = {}

        def step(numbers: Tensor) -> Tensor:
            key = str(numbers.dtype)
            if key not in factors:
                factors[key] = 2.0
            return case.update(case.loss(numbers) * factors[key])

        return step

    _, replayed = twins(make=make, verify=2)
    assert replayed.step.replayed > 8


def test_a_step_that_enqueues_its_batch_itself_says_so() -> None:
    case = Case()

    def train_step() -> Tensor:
        return case.step(case.next())

    step = tte.replay(train_step, case.embedding)
    for _ in range(3):
        step()
    assert step.reason == (
        "it enqueues its batch itself; call enqueue (or take the loader's next batch) outside, and dequeue "
        "in the step"
    )

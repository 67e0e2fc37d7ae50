"""Numbers from a closure, a global or an object: a replayed step follows their changes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.replays import Case, Step, UnseenCount, twins
from torch import Tensor, nn

import torch_tpu_embedding as tte
from torch_tpu_embedding.replaying.surroundings.surroundings import Surroundings

WEIGHT = 1.0
Setter = Callable[[float], None]


class Trainer:
    """A class that is no module."""

    of_class = 1.0

    def __init__(self, case: Case) -> None:
        self.case = case
        self.weight = 1.0
        self.unused = 0
        self.config = SimpleNamespace(weight=1.0, unused=0)

    def step(self, numbers: Tensor) -> Tensor:
        return self.case.update(self.scaled(self.case.loss(numbers)))

    def scaled(self, loss: Tensor) -> Tensor:
        config = self.config
        return loss * self.weight * config.weight * self.of_class


class Scaled(nn.Module):
    """A module that reads a global, and a dict of its own, in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = {"weight": 1.0}

    def forward(self, loss: Tensor) -> Tensor:
        return loss * self.numbers["weight"] * WEIGHT


def of_closure(case: Case) -> tuple[Step, Setter]:
    weight = 1.0

    def step(numbers: Tensor) -> Tensor:
        return case.update((lambda loss: loss * weight)(case.loss(numbers)))

    def setter(value: float) -> None:
        nonlocal weight
        weight = value

    return step, setter


def of_dict(case: Case) -> tuple[Step, Setter]:
    state = {"weight": 1.0}
    return lambda numbers: case.update(case.loss(numbers) * state["weight"]), lambda value: (
        state.__setitem__("weight", value)
    )


def of_list(case: Case) -> tuple[Step, Setter]:
    state = [[1.0, 0.0]]
    return lambda numbers: case.update(case.loss(numbers) * state[0][0]), lambda value: (
        state[0].__setitem__(0, value)
    )


def of_global(case: Case) -> tuple[Step, Setter]:
    def setter(value: float) -> None:
        global WEIGHT
        WEIGHT = value

    setter(1.0)
    return lambda numbers: case.update(case.loss(numbers) * WEIGHT), setter


def of_attribute(case: Case) -> tuple[Step, Setter]:
    trainer = Trainer(case)
    return trainer.step, lambda value: setattr(trainer, "weight", value)


def of_class(case: Case) -> tuple[Step, Setter]:
    trainer = Trainer(case)
    return trainer.step, lambda value: setattr(trainer, "of_class", value)


def of_config(case: Case) -> tuple[Step, Setter]:
    trainer = Trainer(case)
    return trainer.step, lambda value: setattr(trainer.config, "weight", value)


def of_other_config(case: Case) -> tuple[Step, Setter]:
    trainer = Trainer(case)
    return trainer.step, lambda value: setattr(trainer, "config", SimpleNamespace(weight=value))


def of_module(case: Case) -> tuple[Step, Setter]:
    module = Scaled()
    return lambda numbers: case.update(module(case.loss(numbers))), lambda value: (
        module.numbers.__setitem__("weight", value)
    )


def of_host_tensor(case: Case) -> tuple[Step, Setter]:
    weight = torch.tensor(1.0)
    return lambda numbers: case.update(case.loss(numbers) * weight.item()), lambda value: (
        weight.data.fill_(value) and None
    )


WAYS = [
    of_closure, of_dict, of_list, of_global, of_attribute, of_class, of_config, of_other_config,
    of_module, of_host_tensor,
]  # fmt: skip


def changing(
    way: Callable[[Case], tuple[Step, Setter]], values: dict[int, float]
) -> dict[str, Callable[..., Any]]:
    """Options of a run in which the number is set before some steps."""
    setters: dict[int, Setter] = {}

    def make(case: Case) -> Step:
        step, setters[id(case)] = way(case)
        return step

    def between(case: Case, k: int) -> None:
        if k in values:
            setters[id(case)](values[k])

    return {"make": make, "between": between}


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_changes_is_followed_at_once_and_replayed_again(
    way: Callable[[Case], tuple[Step, Setter]],
) -> None:
    _, replayed = twins(**changing(way, {12: 5.0, 24: 1.0}), steps=32, check_every=64)  # type: ignore[arg-type]
    assert replayed.step.replayed > 12


@settings(max_examples=6, deadline=None, database=None)
@given(
    st.sampled_from(WAYS),
    st.dictionaries(st.integers(1, 27), st.sampled_from([-0.0, 0.5, 1.0, 2.0])),
)
def test_a_replayed_run_is_the_traced_one_when_numbers_change_at_any_steps(
    way: Callable[[Case], tuple[Step, Setter]], values: dict[int, float]
) -> None:
    twins(**changing(way, values), steps=28, verify=2, check_every=64)  # type: ignore[arg-type]


def test_a_number_that_changes_at_every_step_is_traced_with_the_remedy_and_the_remedy_is_replayed() -> (
    None
):
    with pytest.warns(
        RuntimeWarning, match=r"'weight' \(an attribute of a Trainer\) has changed"
    ) as said:
        _, replayed = twins(**changing(of_attribute, {k: k / 8 for k in range(24)}))  # type: ignore[arg-type]
    assert "has to be an argument that is a tensor of the device, or a buffer" in str(
        said[0].message
    )
    assert replayed.step.replayed == 0

    def make(case: Case) -> Step:
        return lambda numbers, weight: case.update(case.loss(numbers) * weight)

    device = tte.runtime.device()
    values = [torch.tensor(k / 8).to(device) for k in range(24)]
    _, replayed = twins(make=make, arguments=lambda k: (values[k],))
    assert replayed.step.replayed > 10


def test_what_the_function_does_not_name_may_change_at_every_step() -> None:
    def make(case: Case) -> Step:
        case.trainer = Trainer(case)  # type: ignore[attr-defined]
        return case.trainer.step  # type: ignore[attr-defined, no-any-return]

    def between(case: Case, k: int) -> None:
        case.trainer.unused = case.trainer.config.unused = k  # type: ignore[attr-defined]

    _, replayed = twins(make=make, between=between, check_every=64)
    assert replayed.step.replayed > 12


def test_a_counter_may_have_the_name_of_a_method_that_the_step_calls_of_another_object() -> None:
    class Counting:
        def __init__(self, case: Case) -> None:
            self.case = case
            self.step = 0
            self.others = [SimpleNamespace(step=lambda: None)]

        def train_step(self, numbers: Tensor) -> Tensor:
            for each in self.others:
                each.step()
            return self.case.update(self.case.loss(numbers))

    def make(case: Case) -> Step:
        case.trainer = Counting(case)  # type: ignore[attr-defined]
        return case.trainer.train_step  # type: ignore[attr-defined, no-any-return]

    def between(case: Case, k: int) -> None:
        case.trainer.step = k  # type: ignore[attr-defined]

    _, replayed = twins(make=make, between=between, check_every=64)
    assert replayed.step.replayed > 12


def test_a_number_that_the_step_itself_changes_is_said_and_traced() -> None:
    def make(case: Case) -> Step:
        trainer = Trainer(case)

        def step(numbers: Tensor) -> Tensor:
            trainer.unused += 1
            return trainer.step(numbers)

        return step

    with pytest.warns(
        RuntimeWarning, match="it changes 'unused'.*which a replayed step does not do"
    ):
        _, replayed = twins(make=make)
    assert replayed.step.replayed == 0


def test_a_tensor_of_the_device_without_dimensions_is_refused_as_those_with_are() -> None:
    def make(case: Case) -> Step:
        case.factor = torch.tensor(0.5).to(case.embedding.device)  # type: ignore[attr-defined]
        tte.runtime.sync()
        factor = case.factor  # type: ignore[attr-defined]
        return lambda numbers: case.update(case.loss(numbers) * factor)

    with pytest.warns(RuntimeWarning, match=r"it reads a tensor \(float32 \[\]\)"):
        _, replayed = twins(make=make)
    assert replayed.step.replayed == 0


def test_the_reason_names_the_line_that_reads_an_unknown_tensor() -> None:
    def make(case: Case) -> Step:
        def step(numbers: Tensor) -> Tensor:
            rows, columns = torch.tril_indices(4, 4, -1)
            return case.update(case.loss(numbers) + numbers[rows, columns].mean())

        return step

    with pytest.warns(RuntimeWarning, match=r"int64 \[6\].*test_replay_surroundings\.py:\d+\)"):
        twins(make=make)


def test_torch_adam_is_known_at_the_first_step_and_costs_what_it_costs_without_replay() -> None:
    case, plain = Case("adam on the host"), Case("adam on the host")
    step = tte.replay(case.step, case.embedding)
    with pytest.warns(
        RuntimeWarning, match=r"use tte\.dense_optimizers\.Adam\(model\.parameters\(\)"
    ):
        step(case.next())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        times: dict[str, list[float]] = {"replay": [], "plain": []}
        plain.step(plain.next())
        for _ in range(30):
            for name, each in (("replay", case), ("plain", plain)):
                numbers = each.next()
                start = time.thread_time()
                if name == "replay":
                    step(numbers)
                else:
                    each.step(numbers)
                    tte.runtime.sync()
                times[name].append(time.thread_time() - start)
    assert sorted(times["replay"])[15] < 1.5 * sorted(times["plain"])[15]


def test_a_step_whose_traces_differ_is_soon_left_alone() -> None:
    calls = UnseenCount()

    def make(case: Case) -> Step:
        def step(numbers: Tensor) -> Tensor:
            return case.update(case.loss(numbers) * (1.0 + next(calls) / 64))

        return step

    case = Case()
    step = tte.replay(make(case), case.embedding)
    captured = []
    trace = step._trace

    def train(steps: int) -> None:
        for _ in range(steps):
            step(case.next())

    step._trace = lambda *args: captured.append(1) or trace(*args)  # type: ignore[method-assign, func-returns-value]
    with pytest.warns(RuntimeWarning, match="a number in it differs from trace to trace"):
        train(16)
    train(40)
    assert len(captured) < 12


def test_a_look_at_the_values_takes_less_than_20_microseconds() -> None:
    trainer = Trainer(Case())
    around = Surroundings(trainer.step, list)
    assert around.token() == around.token()
    spans = []
    for _ in range(200):
        start = time.thread_time_ns()
        for _ in range(10):
            around.token()
        spans.append((time.thread_time_ns() - start) / 10)
    assert sorted(spans)[100] < 20_000

"""`held`: the memory that a step overwrites is known until it is over, on XLA's CPU device, at no cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch_xla
from models.dense_cases import assert_equal, gradients, makers, parameters, take_steps

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime.torch_xla.held import STEPS, held


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    held.now = []
    held.before.clear()
    yield
    held.now = []
    held.before.clear()


def known() -> int:
    """The number of tensors whose memory is held."""
    steps = (held.now, *held.before)
    return sum(len(part) for step in steps for part in step)


def test_a_dense_step_holds_what_it_overwrites_until_some_more_have_ended() -> None:
    weights = parameters(tte.runtime.device())
    optimizer = tte.dense_optimizers.Adagrad(weights)
    tte.runtime.sync()
    take_steps(optimizer, weights, gradients(), 1)
    assert known() == 2 * len(weights) + 1, "weights, sums and the count of steps"
    assert held.now == []
    for _ in range(STEPS):
        assert known() == 2 * len(weights) + 1
        tte.runtime.sync()
    assert known() == 0
    take_steps(optimizer, weights, gradients(), 20)
    assert known() == STEPS * (2 * len(weights) + 1), "no more after many steps"


def test_what_is_held_has_no_memory_of_its_own_for_the_results_have_it() -> None:
    weights = parameters(tte.runtime.device())
    optimizer = tte.dense_optimizers.Adam(weights)
    take_steps(optimizer, weights, gradients(), 3)
    *_, (of_step,) = held.before
    assert len(of_step) == 3 * len(weights) + 1
    for each in of_step:
        with pytest.raises(RuntimeError, match="HasValue"):
            each.cpu()


def test_a_step_of_the_tables_holds_each_array() -> None:
    table = tte.TableConfig(40, 8, name="t")
    embedding = tte.TPUEmbedding({"a": tte.FeatureConfig(table)}, 4, tte.Adagrad(0.1))
    for _ in range(3):
        embedding.enqueue({"a": torch.tensor([1, 2, 3, 1])})
        (activations,) = embedding.dequeue().values()
        embedding.apply_gradients({"a": torch.ones_like(activations)})
        tte.runtime.sync()
    arrays = embedding._tables.engine.store.arrays
    assert known() == STEPS * sum(len(of_stack) for of_stack in arrays)


def test_steps_that_torch_xla_ends_release_what_was_held_too() -> None:
    weights = parameters(tte.runtime.device())
    optimizer = tte.dense_optimizers.SGD(weights)
    torch_xla.sync()
    for _ in range(20):
        for each, gradient in zip(weights, next(gradients()), strict=True):
            each.grad = gradient.to(each.device)
        optimizer.step()
        torch_xla.sync()
    assert known() == (STEPS + 1) * len(weights)


def test_weights_that_are_not_computed_yet_are_not_held() -> None:
    weights = parameters(tte.runtime.device())
    optimizer = tte.dense_optimizers.SGD(weights)
    tte.runtime.sync()
    with torch.no_grad():
        weights[0].mul_(2)
    take_steps(optimizer, weights, gradients(), 1)
    assert known() == len(weights) - 1


@pytest.mark.parametrize("reason", ["a TPU", "SPMD", "host tensors"])
def test_nothing_is_held(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "a TPU":
        monkeypatch.setattr("torch_xla.runtime.device_type", lambda: "TPU")
    if reason == "SPMD":
        monkeypatch.setattr("torch_xla.runtime.is_spmd", lambda: True)
    weights = parameters("cpu" if reason == "host tensors" else tte.runtime.device())
    take_steps(tte.dense_optimizers.Adam(weights), weights, gradients(), 3)
    assert known() == 0


def test_memory_that_the_program_overwrites_is_known_when_it_has_been_started() -> None:
    weights = parameters(tte.runtime.device())
    optimizer = tte.dense_optimizers.SGD(weights)
    tte.runtime.sync()
    for each, gradient in zip(weights, next(gradients()), strict=True):
        each.grad = gradient.to(each.device)
    optimizer.step()
    (of_step,) = held.now
    tte.runtime.sync()
    assert held.before[-1] == [of_step], "not released in the call that starts the program"


# -- many steps --------------------------------------------------------------------------------------


def make(pipelined: bool = False) -> tte.TPUEmbedding:
    table = tte.TableConfig(40, 8, name="t")
    return tte.TPUEmbedding(
        {"a": tte.FeatureConfig(table)},
        4,
        tte.Adagrad(0.1),
        seed=0,
        pipeline_execution_with_tensor_core=pipelined,
    )


def look_up(embedding: tte.TPUEmbedding, step: int) -> None:
    embedding.enqueue({"a": torch.tensor([1, 2, step % 40, 1])})
    (activations,) = embedding.dequeue().values()
    (activations * activations).sum().backward()


def plain(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    embedding.apply_gradients()
    tte.runtime.sync()


def accumulated(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    embedding.accumulate_gradients()
    plain(embedding, step + 1)


@pytest.mark.parametrize(
    ("step", "pipelined"), [(plain, False), (plain, True), (accumulated, False)]
)
def test_what_is_held_stays_the_same_over_300_steps(
    step: Callable[[tte.TPUEmbedding, int], None], pipelined: bool
) -> None:
    embedding = make(pipelined)
    counts = []
    for number in range(300):
        step(embedding, number)
        counts.append(known())
    assert 0 < max(counts[10:]) <= max(counts[:10])


def test_a_dense_state_loaded_in_the_middle_is_trained_on_as_in_torch() -> None:
    of_torch, ours = makers("Adagrad", {"lr": 0.1})
    found = []
    for make_one, device in ((of_torch, torch.device("cpu")), (ours, tte.runtime.device())):
        weights, drawn = parameters(device), gradients()
        optimizer = make_one(weights)
        take_steps(optimizer, weights, drawn, 3)
        state = optimizer.state_dict()
        take_steps(optimizer, weights, drawn, 3)
        optimizer.load_state_dict(state)
        take_steps(optimizer, weights, drawn, 3)
        found.append([each.detach().cpu() for each in weights])
    assert_equal(*found, rtol=1e-6, atol=1e-6)
    assert known() > 0


def test_tables_loaded_in_the_middle_are_trained_on_as_if_nothing_were_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for holds in (True, False):
        if not holds:
            monkeypatch.setattr("torch_tpu_embedding.program.engine.hold", lambda tensors: None)
        embedding = make()
        for number in range(3):
            plain(embedding, number)
        state = {key: each.clone() for key, each in embedding.state_dict().items()}
        for number in range(3, 6):
            plain(embedding, number)
        embedding.load_state_dict(state)
        for number in range(6, 9):
            plain(embedding, number)
        found.append(dict(embedding.state_dict()))
    assert_equal(*found)

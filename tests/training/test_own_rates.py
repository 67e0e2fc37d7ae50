"""Rates set on an EmbeddingOptimizer are heeded, or said not to be; those that have not changed since the
last update are not checked again."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from models import helpers

import torch_tpu_embedding as tte

IDS = {"f": torch.tensor([1, 2])}
UNHEEDED = (
    r"on the EmbeddingOptimizer are not heeded \('t': 5.0 there, 1.0 of the table\); call its step"
)


def make(rate: float | Callable[[], float] = 1.0) -> tte.TPUEmbedding:
    table = tte.TableConfig(9, 2, name="t")
    return tte.TPUEmbedding({"f": tte.FeatureConfig(table)}, 2, tte.SGD(rate), seed=0)


def moved(embedding: tte.TPUEmbedding, apply: Callable[[], object]) -> float:
    """How far a step moves a weight whose gradient is 1: the rate that it took."""
    before = embedding.state_dict()["t.weight"][1, 0].item()
    embedding(IDS)["f"].sum().backward()
    apply()
    return round(before - embedding.state_dict()["t.weight"][1, 0].item(), 4)


def test_an_update_that_passes_the_optimizer_by_says_once_that_its_rates_are_not_heeded() -> None:
    embedding = make()
    optimizer = tte.EmbeddingOptimizer(embedding)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 5.0)
    with pytest.warns(RuntimeWarning, match=UNHEEDED) as caught:
        assert moved(embedding, embedding.apply_gradients) == 1.0
    assert [each.filename for each in caught] == [__file__]
    assert moved(embedding, embedding.apply_gradients) == 1.0  # said once


def test_its_remedies_heed_them() -> None:
    embedding = make()
    optimizer = tte.EmbeddingOptimizer(embedding)
    optimizer.param_groups[0]["lr"] = 5.0
    assert moved(embedding, optimizer.step) == 5.0
    rates = [group["lr"] for group in optimizer.param_groups]
    assert moved(embedding, lambda: embedding.apply_gradients(learning_rates=rates)) == 5.0


def test_rates_loaded_into_it_are_not_passed_by_in_silence() -> None:
    embedding = make()
    state = tte.EmbeddingOptimizer(embedding).state_dict()
    optimizer = tte.EmbeddingOptimizer(embedding)
    state["param_groups"][0]["lr"] = 5.0
    optimizer.load_state_dict(state)
    with pytest.warns(RuntimeWarning, match=UNHEEDED):
        moved(embedding, embedding.apply_gradients)


def test_nothing_is_said_where_the_rates_are_the_tables_or_the_optimizer_is_gone() -> None:
    embedding, called = make(), make(lambda: 2.0)
    optimizer, of_called = tte.EmbeddingOptimizer(embedding), tte.EmbeddingOptimizer(called)
    assert moved(embedding, embedding.apply_gradients) == 1.0
    assert moved(called, called.apply_gradients) == 2.0
    assert moved(called, of_called.step) == 2.0
    optimizer.param_groups[0]["lr"] = 5.0
    del optimizer
    gc.collect()
    assert moved(embedding, embedding.apply_gradients) == 1.0


# -- rates that have not changed ----------------------------------------------------------------------


def setup() -> tuple[tte.TPUEmbedding, tte.EmbeddingOptimizer]:
    table = tte.TableConfig(10, 4, name="t")
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 2, tte.SGD(0.5), seed=0)
    return embedding, tte.EmbeddingOptimizer(embedding)


def step(embedding: tte.TPUEmbedding, optimizer: tte.EmbeddingOptimizer) -> None:
    (activations,) = embedding([torch.tensor([1, 2])])
    activations.sum().backward()
    optimizer.step()
    tte.runtime.sync()


def test_the_list_of_the_last_update_is_taken_again_while_nothing_changes() -> None:
    embedding, optimizer = setup()
    step(embedding, optimizer)
    taken = optimizer._rates()
    step(embedding, optimizer)
    assert optimizer._rates() is taken
    optimizer.param_groups[0]["lr"] = 0.25
    assert optimizer._rates() == [0.25]
    before = helpers.tensors(embedding)["t.weight"]
    step(embedding, optimizer)
    moved = before - helpers.tensors(embedding)["t.weight"]
    assert torch.allclose(moved[1:3], torch.tensor(0.25))


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf"), "fast", None])
def test_a_wrong_rate_is_refused_after_steps_however_it_came_in(bad: object) -> None:
    embedding, optimizer = setup()
    step(embedding, optimizer)
    for load in (False, True):
        if load:
            state = optimizer.state_dict()
            state["param_groups"][0]["lr"] = bad
            optimizer.load_state_dict(state)
        else:
            optimizer.param_groups[0]["lr"] = bad
        for _ in range(2):
            with pytest.raises(ValueError, match="rate"):
                optimizer._rates()
        optimizer.param_groups[0]["lr"] = 0.5
        step(embedding, optimizer)


def test_a_tensor_as_rate_is_read_at_each_step() -> None:
    embedding, optimizer = setup()
    rate = torch.tensor(0.5)
    for value in (0.5, 0.25):
        rate.fill_(value)
        optimizer.param_groups[0]["lr"] = rate
        assert optimizer._rates() == [value]
        step(embedding, optimizer)

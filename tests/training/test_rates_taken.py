"""Rates that have not changed since the last update are taken as they are; all others are checked."""

from __future__ import annotations

import pytest
import torch
from models import helpers

import torch_tpu_embedding as tte


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

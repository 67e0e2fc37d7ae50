"""A load or a save in the middle of a step: nothing of the rows before reaches those that were loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

IDS = {"f": torch.tensor([1, 2])}
DROPPED = "checkpoint.load: {} batches that were looked up before.* are dropped"
KEPT = "load_state_dict: the gradients of {} batches.* call embedding.discard"
UNSAVED = "checkpoint.save: the gradients of {} batches are not applied yet"


def make(**options: bool) -> tte.TPUEmbedding:
    table = tte.TableConfig(9, 2, name="t")
    return tte.TPUEmbedding({"f": tte.FeatureConfig(table)}, 2, tte.SGD(0.5), seed=3, **options)


def backward(embedding: tte.TPUEmbedding, factor: float = 1.0, name: str | None = None) -> None:
    embedding.enqueue(IDS, name=name)
    (embedding.dequeue(name)["f"].sum() * factor).backward()


def nothing(_: tte.TPUEmbedding) -> None:
    """Leave no batch open."""


def awaits(embedding: tte.TPUEmbedding) -> None:
    backward(embedding, math.nan)


def looked_up(embedding: tte.TPUEmbedding) -> None:
    embedding(IDS)


def accumulated(embedding: tte.TPUEmbedding) -> None:
    for _ in range(2):
        backward(embedding, math.nan)
        embedding.accumulate_gradients()


def both(embedding: tte.TPUEmbedding) -> None:
    accumulated(embedding)
    backward(embedding, math.nan)


def clipped(embedding: tte.TPUEmbedding) -> None:
    backward(embedding, math.nan)
    embedding.clip_grad_norm_(1.0)


def named(embedding: tte.TPUEmbedding) -> None:
    backward(embedding, math.nan, "other")
    embedding.accumulate_gradients(name="other")


STATES = {nothing: 0, awaits: 1, accumulated: 2, both: 3, clipped: 1, named: 1}
"""The open steps, and the number of their batches."""


def weights(embedding: tte.TPUEmbedding) -> Tensor:
    found: Tensor = embedding.state_dict()["t.weight"]
    return found


def step(embedding: tte.TPUEmbedding, name: str | None = None) -> None:
    backward(embedding, 1.0, name)
    embedding.apply_gradients(name=name)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Tensor]:
    """A checkpoint, and the table after one step from there."""
    embedding = make()
    checkpoint.save(embedding, tmp_path, 1)
    step(embedding)
    return tmp_path, weights(embedding)


@pytest.mark.parametrize("open_step", STATES)
def test_a_load_drops_what_was_computed_from_the_rows_before(
    saved: tuple[Path, Tensor], open_step: Callable[[tte.TPUEmbedding], None]
) -> None:
    directory, after = saved
    embedding, count = make(), STATES[open_step]
    open_step(embedding)
    if count:
        with pytest.warns(RuntimeWarning, match=DROPPED.format(count)) as caught:
            checkpoint.load(embedding, directory)
        assert [each.filename for each in caught] == [__file__]
    else:
        checkpoint.load(embedding, directory)
    optimizer = tte.EmbeddingOptimizer(embedding)
    assert [group["params"] for group in optimizer.param_groups] == [[]]
    step(embedding, "other" if open_step is named else None)
    assert torch.equal(weights(embedding), after)


def test_discard_before_the_load_is_the_same_without_a_warning(saved: tuple[Path, Tensor]) -> None:
    directory, after = saved
    embedding = make()
    both(embedding)
    embedding.discard()
    checkpoint.load(embedding, directory)
    step(embedding)
    assert torch.equal(weights(embedding), after)


def test_a_step_that_zero_grad_gave_up_is_dropped_without_a_warning(
    saved: tuple[Path, Tensor],
) -> None:
    directory, after = saved
    embedding = make()
    optimizer = tte.EmbeddingOptimizer(embedding)
    both(embedding)
    optimizer.zero_grad()
    checkpoint.load(embedding, directory)
    step(embedding)
    assert torch.equal(weights(embedding), after)


def test_a_load_through_one_object_drops_the_open_steps_of_another_on_the_same_tables(
    saved: tuple[Path, Tensor],
) -> None:
    directory, after = saved
    embedding = make()
    embedding.build()
    other = make(initialize_tpu_embedding=False)
    unrelated = make()
    backward(unrelated)
    accumulated(other)
    with pytest.warns(RuntimeWarning, match=DROPPED.format(2)):
        checkpoint.load(embedding, directory)
    step(other)
    assert torch.equal(weights(embedding), after)
    unrelated.apply_gradients()


def test_batches_that_wait_stay_and_see_the_loaded_rows(saved: tuple[Path, Tensor]) -> None:
    directory, after = saved
    for pipelined in (False, True):
        embedding = make(pipeline_execution_with_tensor_core=pipelined)
        step(embedding)
        step(embedding)
        embedding.enqueue(IDS)
        checkpoint.load(embedding, directory)
        embedding.dequeue()["f"].sum().backward()
        embedding.apply_gradients()
        assert torch.equal(weights(embedding), after)


def test_a_load_that_fails_drops_nothing(tmp_path: Path) -> None:
    embedding, other = make(), make()
    backward(embedding)
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.load(embedding, tmp_path)
    embedding.apply_gradients()
    step(other)
    assert torch.equal(weights(embedding), weights(other))


@pytest.mark.parametrize("open_step", [awaits, accumulated, both, clipped, named])
def test_load_state_dict_keeps_gradients_and_says_so(
    saved: tuple[Path, Tensor], open_step: Callable[[tte.TPUEmbedding], None]
) -> None:
    _, after = saved
    embedding, state = make(), make().state_dict()
    open_step(embedding)
    with pytest.warns(RuntimeWarning, match=KEPT.format(STATES[open_step])) as caught:
        embedding.load_state_dict(state)
    assert [each.filename for each in caught] == [__file__]
    name = "other" if open_step is named else None
    embedding.discard(name)
    step(embedding, name)
    assert torch.equal(weights(embedding), after)


@pytest.mark.parametrize("open_step", [awaits, accumulated, both, clipped, named])
def test_a_save_warns_of_gradients_that_are_in_no_file(
    tmp_path: Path, open_step: Callable[[tte.TPUEmbedding], None]
) -> None:
    embedding = make()
    open_step(embedding)
    with pytest.warns(RuntimeWarning, match=UNSAVED.format(STATES[open_step])) as caught:
        checkpoint.save(embedding, tmp_path, 1)
    assert [each.filename for each in caught] == [__file__]
    embedding.apply_gradients(name="other" if open_step is named else None)
    checkpoint.save(embedding, tmp_path, 2)


def test_a_save_before_backward_or_after_zero_grad_is_silent(tmp_path: Path) -> None:
    embedding = make()
    looked_up(embedding)
    checkpoint.save(embedding, tmp_path, 1)
    embedding.discard()
    backward(embedding)
    tte.EmbeddingOptimizer(embedding).zero_grad()
    checkpoint.save(embedding, tmp_path, 2)

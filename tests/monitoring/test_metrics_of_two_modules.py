"""Metrics of two modules on one set of tables: each has its own, with the norms of what they share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch_tpu_embedding as tte


def make(**options: Any) -> tte.TPUEmbedding:
    table = tte.TableConfig(20, 4, name="a", combiner="sum")
    features = {"a": tte.FeatureConfig(table)}
    return tte.TPUEmbedding(features, 2, tte.SGD(0.1), seed=0, **options)


def train(embedding: tte.TPUEmbedding, *ids: int) -> None:
    embedding.enqueue({"a": torch.tensor(ids)})
    embedding.dequeue()["a"].sum().backward()
    embedding.apply_gradients()
    tte.runtime.sync()


def norm(embedding: tte.TPUEmbedding) -> float | None:
    found: float | None = embedding.metrics()["tables"]["a"]["gradient_norm"]
    return found


@pytest.fixture
def two() -> tuple[tte.TPUEmbedding, tte.TPUEmbedding]:
    """Two modules, the second one on the tables of the first."""
    first = make()
    first.build()
    return first, make(initialize_tpu_embedding=False)


def test_both_record_the_norms_of_the_tables_that_they_share(
    two: tuple[tte.TPUEmbedding, tte.TPUEmbedding],
) -> None:
    first, second = two
    first.enable_metrics(every=1)
    second.enable_metrics(every=1)
    train(first, 1, 2)  # a gradient of ones for each of two rows of 4
    assert norm(first) == norm(second) == pytest.approx(8**0.5)
    train(second, 3, 3)  # of twos for one row
    assert norm(first) == norm(second) == pytest.approx(16**0.5)
    assert [each.metrics()["steps"] for each in two] == [1, 1], "each counts its own steps"


def test_each_samples_as_often_as_it_was_told(
    two: tuple[tte.TPUEmbedding, tte.TPUEmbedding],
) -> None:
    first, second = two
    first.enable_metrics(every=1)
    second.enable_metrics(every=2)  # the second update of every two
    train(first, 1, 2)
    assert (norm(first), norm(second)) == (pytest.approx(8**0.5), None)
    train(first, 3, 3)
    assert norm(first) == norm(second) == pytest.approx(16**0.5)
    train(first, 1, 2)
    assert (norm(first), norm(second)) == pytest.approx((8**0.5, 16**0.5))


def test_one_that_stops_or_begins_again_leaves_the_other_alone(
    two: tuple[tte.TPUEmbedding, tte.TPUEmbedding],
) -> None:
    first, second = two
    for each in (first, second, second):
        each.enable_metrics(every=1)
    train(first, 1, 2)
    assert norm(first) == norm(second) == pytest.approx(8**0.5)
    second.disable_metrics()
    train(first, 3, 3)
    assert norm(first) == pytest.approx(16**0.5)
    with pytest.raises(RuntimeError, match="nothing is counted; call enable_metrics"):
        second.metrics()
    first.disable_metrics()
    train(first, 1, 2)

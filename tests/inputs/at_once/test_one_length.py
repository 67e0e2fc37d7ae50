"""Features whose bags have one length each are read and packed at once, with the general way's result."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import at_once
from models.at_once import SIZE, Case, host_batches, parse, parse_one_by_one
from models.host_batches import assert_same, assert_same_bags

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch.at_once import keys, stack
from torch_tpu_embedding.batch.at_once.batch import OneLengthBatch
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.inputs import parse as parsing
from torch_tpu_embedding.inputs.at_once.bags import OneIdBags, OneLengthBags


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Nearly always bags of one length; now and then other bags, none, weights, padding rows, wrong ids."""
    tables = [
        tte.TableConfig(
            draw(st.integers(1, 40)),
            dim,
            combiner=draw(st.sampled_from(["sum", "mean", "sqrtn"])),
            padding_idx=draw(st.sampled_from([None] * 9 + [0])),
        )
        for dim in draw(st.lists(st.sampled_from([4, 8]), min_size=1, max_size=4))
    ]
    chosen = draw(st.lists(st.sampled_from(tables), min_size=1, max_size=6))
    lengths = draw(
        st.lists(st.integers(0, 3), min_size=len(chosen), max_size=len(chosen))
    )  # 0: dense
    rare = st.sampled_from([False] * 9 + [True])
    with_weights, id_bounds = draw(rare), draw(st.sampled_from(["raise", "drop"]))
    batches = []
    for _ in range(draw(st.integers(1, 3))):
        values, weights = [], []
        for table, length in zip(chosen, lengths, strict=True):
            wrong = id_bounds == "drop" and draw(rare)
            ids = st.integers(-1 if wrong else 0, table.vocabulary_size - (not wrong))
            dtype = draw(st.sampled_from([torch.int64, torch.int32]))
            odd = bool(length) and draw(rare)
            sizes = [draw(st.integers(0, 3)) if odd else length or 1 for _ in range(SIZE)]
            rows = [draw(st.lists(ids, min_size=n, max_size=n)) for n in sizes]
            ragged = tte.Ragged.from_lists(rows, dtype)
            values.append(ragged if length else ragged.values)
            numbers = torch.arange(1.0, 1 + len(ragged.values))
            weights.append(tte.Ragged(numbers, ragged.row_splits) if length else None)
        batches.append((values, weights if with_weights else None))
    resolved = resolve([tte.FeatureConfig(table) for table in chosen], tte.Adagrad(0.1))
    return Case(resolved, batches, id_bounds)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_bags_are_those_of_the_reference(case: Case) -> None:
    for batch in case.batches:
        for pair in zip(parse(case, batch), parse_one_by_one(case, batch), strict=True):
            assert_same_bags(*pair)


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from([0, 5, 7, 32]), st.sampled_from([0, 1 << 14]), st.booleans())
def test_the_buffers_are_those_of_the_reference(
    case: Case, word: int, enough: int, training: bool
) -> None:
    kinds = mock.patch.object(keys, "_WORD", word), mock.patch.object(stack, "_ENOUGH", enough)
    with kinds[0], kinds[1]:  # a few keys, none or all; dense tables marked or not
        fast = host_batches(case, [parse(case, each) for each in case.batches], training)
    slow = host_batches(case, [parse_one_by_one(case, each) for each in case.batches], training)
    for one, other in zip(fast, slow, strict=True):
        assert_same(one, other)


def features(count: int = 3, **options: Any) -> list[tte.FeatureConfig]:
    return [
        tte.FeatureConfig(tte.TableConfig(10 + n, 4, name=f"t{n}"), **options) for n in range(count)
    ]


BATCH = [
    torch.tensor([1, 2, 3]),
    tte.Ragged.from_lists([[1, 2], [3, 4], [5, 6]]),
    tte.Ragged.from_lists([[7], [8], [9]], torch.int32),
]


def read(values: Any, config: Any = None, weights: Any = None) -> Any:
    return at_once.read(config or features(), values, weights, "raise")


def test_bags_of_one_length_are_read_at_once() -> None:
    bags = read(BATCH)
    assert isinstance(bags, OneLengthBags)
    assert bags.lengths == (0, 2, 1)
    assert not isinstance(bags, OneIdBags)


def test_other_bags_are_read_one_feature_after_another() -> None:
    weights = [None, tte.Ragged(torch.ones(6), BATCH[1].row_splits), None]
    padded = [*features(2), tte.FeatureConfig(tte.TableConfig(12, 4, padding_idx=0))]
    assert isinstance(read(BATCH, weights=weights), list)
    assert isinstance(read(BATCH, padded), list)


def test_batches_are_packed_at_once_as_soon_as_their_lengths_are_known() -> None:
    assert at_once.times_packed(OneLengthBatch, features(), BATCH) == 2


def test_another_length_after_that_is_dealt_with_in_the_general_way() -> None:
    resolved = resolve(features(), tte.Adagrad(0.1))
    longer = [BATCH[0], tte.Ragged.from_lists([[1, 2, 3]] * 3), BATCH[2]]
    case = Case(resolved, [(BATCH, None), (BATCH, None), (longer, None), (BATCH, None)], "raise")
    fast = host_batches(case, [parse(case, each) for each in case.batches], True)
    slow = host_batches(case, [parse_one_by_one(case, each) for each in case.batches], True)
    for one, other in zip(fast, slow, strict=True):
        assert_same(one, other)


def make(**options: Any) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(features(), SIZE, tte.Adagrad(0.1), seed=0, **options)


@pytest.mark.parametrize("wrong", [-1, 11, 2**40])
def test_an_id_outside_is_named_with_its_bag_and_position(wrong: int) -> None:
    at_once.assert_an_id_outside_is_named(make(), BATCH, wrong, sample=1)


def test_gains_that_are_always_the_same_are_sent_once() -> None:
    embedding = make()
    sent = []
    for _ in range(4):
        embedding.enqueue(BATCH)
        sent.append(embedding._steps.queue.next(None).sent.floats)
        embedding.discard()
    assert sent[1] is sent[2] is sent[3]
    assert torch.equal(sent[0].cpu(), sent[1].cpu())


def test_training_goes_the_same_way_as_with_bags_read_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(parsing, "read_flat", lambda *_: None)
            monkeypatch.setattr(parsing, "read_at_once", lambda *_: None)
        embedding = make()
        for _ in range(4):
            embedding.enqueue(BATCH)
            sum((each * each).sum() for each in embedding.dequeue()).backward()  # type: ignore[union-attr]
            embedding.apply_gradients()
            tte.runtime.sync()
        states.append(dict(embedding.state_dict()))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())

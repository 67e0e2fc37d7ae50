"""Features with bags of any number of ids, and sequences, are read and packed at once, with the general
way's result."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import at_once
from models.at_once import SIZE, Case, host_batches, one_by_one, parse, parse_one_by_one
from models.host_batches import assert_same, assert_same_bags

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch import dedup
from torch_tpu_embedding.batch.at_once.uneven import UnevenBatch
from torch_tpu_embedding.config.nest import pack_like
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.inputs.at_once.bags import OneLengthBags
from torch_tpu_embedding.inputs.at_once.uneven import UnevenBags


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Dense, pooled and sequence features; bags of any length, at times of one; now and then weights,
    padding rows, wrong ids."""
    tables = [
        tte.TableConfig(
            draw(st.integers(1, 40)),
            dim,
            combiner=draw(st.sampled_from(["sum", "mean", "sqrtn"])),
            padding_idx=draw(st.sampled_from([None] * 15 + [0])),
        )
        for dim in draw(st.lists(st.sampled_from([4, 8]), min_size=1, max_size=4))
    ]
    chosen = draw(st.lists(st.sampled_from(tables), min_size=1, max_size=6))
    kinds = [draw(st.sampled_from(["dense", "pooled", "pooled", "sequence"])) for _ in chosen]
    same_length = [draw(st.sampled_from([None, None, 1, 2])) for _ in chosen]
    config: Any = [
        tte.FeatureConfig(table, max_sequence_length=draw(st.integers(1, 3)) * (kind == "sequence"))
        for table, kind in zip(chosen, kinds, strict=True)
    ]
    if draw(st.booleans()):  # in feature order of another kind
        config = dict(zip("cabfed", config, strict=False))
    order = [*resolve(config, None).features]
    rare = st.sampled_from([False] * 9 + [True])
    with_weights, id_bounds = draw(rare), draw(st.sampled_from(["raise", "drop"]))
    of_feature = {id(each.config): n for n, each in enumerate(order)}
    positions = {of_feature[id(each)]: n for n, each in enumerate(_leaves(config))}
    batches = []
    for _ in range(draw(st.integers(1, 4))):
        values, weights = [], []
        for number in range(len(order)):
            at = positions[number]
            wrong = id_bounds == "drop" and draw(rare)
            rows = chosen[at].vocabulary_size
            ids = st.integers(-1 if wrong else 0, rows - (not wrong))
            dtype = draw(st.sampled_from([torch.int64, torch.int64, torch.int32]))
            length = 1 if kinds[at] == "dense" else same_length[at]
            sizes = [draw(st.integers(0, 4)) if length is None else length for _ in range(SIZE)]
            ragged = tte.Ragged.from_lists(
                [draw(st.lists(ids, min_size=n, max_size=n)) for n in sizes], dtype
            )
            splits = ragged.row_splits.to(draw(st.sampled_from([torch.int64, torch.int32])))
            ragged = tte.Ragged(ragged.values, splits)
            values.append(ragged.values if kinds[at] == "dense" else ragged)
            numbers = torch.arange(1.0, 1 + len(ragged.values))
            weights.append(tte.Ragged(numbers, splits) if kinds[at] == "pooled" else None)
        packed = pack_like(config, values), pack_like(config, weights) if with_weights else None
        batches.append(packed)
    return Case(resolve(config, tte.Adagrad(0.1)), batches, id_bounds)


def _leaves(config: Any) -> list[Any]:
    return [*config.values()] if isinstance(config, dict) else config


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_bags_are_those_of_the_reference(case: Case) -> None:
    for batch in case.batches:
        for pair in zip(parse(case, batch), parse_one_by_one(case, batch), strict=True):
            assert_same_bags(*pair)


@settings(max_examples=400, deadline=None)
@given(cases(), st.sampled_from([0, 1, 4, 100]), st.sampled_from([0, 1 << 23]), st.booleans())
def test_the_buffers_are_those_of_the_reference(
    case: Case, marks: int, ranks: int, training: bool
) -> None:
    slow = host_batches(case, [parse_one_by_one(case, each) for each in case.batches], training)
    # All tables marked, none or some; keys of 64 bits where there is no memory for a number of each.
    with mock.patch.multiple(dedup, _MARKS_PER_KEY=marks, _MOST_RANKS=ranks):
        fast = host_batches(case, [parse(case, each) for each in case.batches], training)
    for one, other in zip(fast, slow, strict=True):
        assert_same(one, other)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_on_several_devices_the_buffers_are_those_of_the_reference(case: Case) -> None:
    slow = [parse_one_by_one(case, each) for each in case.batches]
    fast = [parse(case, each) for each in case.batches]
    pairs = zip(*(host_batches(case, each, True, SIZE) for each in (fast, slow)), strict=True)
    for one, other in pairs:
        assert_same(one, other)


def features() -> list[tte.FeatureConfig]:
    tables = [tte.TableConfig(10 + n, 4, name=f"t{n}", combiner="mean") for n in range(3)]
    return [
        tte.FeatureConfig(tables[0]),
        tte.FeatureConfig(tables[1]),
        tte.FeatureConfig(tables[2], max_sequence_length=2),
    ]


BATCH = [
    torch.tensor([1, 2, 3]),
    tte.Ragged.from_lists([[1, 2], [], [5, 6, 7]]),
    tte.Ragged.from_lists([[7], [8, 9, 1], []], torch.int32),
]


def read(values: Any, config: Any = None, weights: Any = None, id_bounds: str = "raise") -> Any:
    return at_once.read(config or features(), values, weights, id_bounds)


def test_uneven_bags_and_sequences_are_read_at_once() -> None:
    assert isinstance(read(BATCH), UnevenBags)
    assert isinstance(read(BATCH[:2], features()[:2]), UnevenBags)
    equal = tte.Ragged.from_lists([[1, 2]] * 3)
    assert isinstance(read([BATCH[0], equal], features()[:2]), OneLengthBags)


def test_what_needs_a_look_of_its_own_is_read_one_feature_after_another() -> None:
    config, (dense, bags, sequence) = features(), BATCH
    weights = [None, tte.Ragged(torch.ones(5), bags.row_splits), None]
    padded = [*config[:2], tte.FeatureConfig(tte.TableConfig(12, 4, padding_idx=0))]
    shaped = [*config[:2], tte.FeatureConfig(config[2].table, output_shape=[3])]
    sparse = torch.sparse_coo_tensor([[0, 2], [0, 0]], [1, 2], (3, 1))
    small = tte.Ragged(bags.values.to(torch.int16), bags.row_splits)
    assert isinstance(read(BATCH, weights=weights), list)
    assert isinstance(read(BATCH, padded), list)
    assert isinstance(read(BATCH, shaped), list)
    assert isinstance(read([dense, sparse, sequence]), list)
    assert isinstance(read([dense, small, sequence]), list)
    assert isinstance(read([torch.tensor([1, 99, 3]), bags, sequence], id_bounds="drop"), list)
    none = [torch.tensor([], dtype=torch.int64), *[tte.Ragged.from_lists([])] * 2]
    assert isinstance(read(none), list)


def test_batches_are_packed_at_once_as_soon_as_their_lengths_are_known() -> None:
    assert at_once.times_packed(UnevenBatch, features(), BATCH) == 2


def test_bags_that_happen_to_have_one_length_go_the_way_of_the_batches_before() -> None:
    equal = [BATCH[0], tte.Ragged.from_lists([[1, 2]] * 3), BATCH[2]]
    batches: list[tuple[Any, Any]] = [(BATCH, None), (equal, None), (BATCH, None)]
    config = features()
    for chosen in (slice(3), slice(2)):
        some: list[tuple[Any, Any]] = [(each[chosen], None) for each, _ in batches]
        case = Case(resolve(config[chosen], tte.Adagrad(0.1)), some, "raise")
        fast = host_batches(case, [parse(case, each) for each in some], True)
        slow = host_batches(case, [parse_one_by_one(case, each) for each in some], True)
        for one, other in zip(fast, slow, strict=True):
            assert_same(one, other)


def make(**options: Any) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(features(), SIZE, tte.Adagrad(0.1), seed=0, **options)


@pytest.mark.parametrize("wrong", [-1, 11, 2**40])
def test_an_id_outside_is_named_with_its_bag_and_position(wrong: int) -> None:
    at_once.assert_an_id_outside_is_named(make(), BATCH, wrong, sample=2)


def test_another_number_of_samples_is_named_with_its_feature() -> None:
    bad = [*BATCH[:2], tte.Ragged.from_lists([[1], [2]])]
    with pytest.raises(ValueError, match=r"feature '2' \(table 't2'\): got 2 samples, but"):
        make().enqueue(bad)


def test_training_and_counts_go_the_same_way_as_with_features_read_one_by_one() -> None:
    states, counted = [], []
    for fast in (True, False):
        embedding = make()
        embedding.enable_metrics(every=2)
        for _ in range(4):
            if fast:
                embedding.enqueue(BATCH)
            else:
                with one_by_one():
                    embedding.enqueue(BATCH)
            rows = embedding.dequeue()
            sum((each * each).sum() for each in rows).backward()  # type: ignore[union-attr]
            embedding.apply_gradients()
            tte.runtime.sync()
        states.append(dict(embedding.state_dict()))
        found = embedding.metrics()
        counted.append([found[key] for key in ("tables", "padded_sizes", "padding_share")])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert counted[0] == counted[1]

"""A KeyedJaggedTensor stands for a list of features, whose names are its keys, as for a dict."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.host_batches import assert_same, assert_same_bags, make_batcher
from models.keyed import Keyed

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch.batcher import HostBatch
from torch_tpu_embedding.batch.sample_padding import SampleCount
from torch_tpu_embedding.config.resolved import Resolved, resolve
from torch_tpu_embedding.inputs import parse as parsing
from torch_tpu_embedding.inputs.at_once.bags import OneLengthBags
from torch_tpu_embedding.inputs.at_once.uneven import UnevenBags

SIZE = 3


def read(resolved: Resolved, value: Any, id_bounds: str = "raise") -> Any:
    shapes = [each.output_shape for each in resolved.features]
    return parsing.parse_features(resolved, value, None, None, id_bounds, shapes)


def read_one_by_one(resolved: Resolved, value: Any, id_bounds: str = "raise") -> Any:
    names = ("read_flat", "read_at_once", "read_keyed")
    with mock.patch.multiple(parsing, **{name: lambda *_: None for name in names}):
        return read(resolved, value, id_bounds)


class Case(NamedTuple):
    """Features, and batches as KeyedJaggedTensors and as lists of Ragged."""

    resolved: Resolved
    keyed: list[Keyed]
    lists: list[Any]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Keys in another order than the features; bags of one length or of any; pooled and sequences; now and
    then wrong ids."""
    names = draw(st.permutations(["a", "b", "c", "d"][: draw(st.integers(1, 4))]))
    keys = draw(st.permutations(names))
    container = draw(st.sampled_from([list, tuple]))
    rows = {name: draw(st.integers(2, 9)) for name in names}
    same_length = {name: draw(st.sampled_from([None, 1, 2])) for name in names}
    config = container(
        tte.FeatureConfig(
            tte.TableConfig(rows[name], 4, combiner=draw(st.sampled_from(["sum", "mean"]))),
            max_sequence_length=draw(st.sampled_from([0, 0, 2])),
            name=name,
        )
        for name in names
    )
    rare = st.sampled_from([False] * 9 + [True])
    keyed, lists = [], []
    for _ in range(draw(st.integers(1, 3))):
        by_name: dict[str, list[list[int]]] = {}
        for name in keys:
            length = same_length[name]
            sizes = [draw(st.integers(0, 3)) if length is None else length for _ in range(SIZE)]
            ids = st.integers(-1 if draw(rare) else 0, rows[name] - 1)
            by_name[name] = [draw(st.lists(ids, min_size=n, max_size=n)) for n in sizes]
        bags = [bag for name in keys for bag in by_name[name]]
        keyed.append(Keyed(keys, [each for bag in bags for each in bag], [*map(len, bags)]))
        lists.append(container(tte.Ragged.from_lists(by_name[name]) for name in names))
    return Case(resolve(config, tte.Adagrad(0.1)), keyed, lists)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_the_bags_are_those_of_a_list_of_ragged(case: Case) -> None:
    for keyed, ragged in zip(case.keyed, case.lists, strict=True):
        wanted = read_one_by_one(case.resolved, ragged, "drop")
        for found in (read, read_one_by_one):
            for pair in zip(found(case.resolved, keyed, "drop"), wanted, strict=True):
                assert_same_bags(*pair)


def host_batches(case: Case, parsed: list[Any]) -> list[HostBatch]:
    batcher, shapes = make_batcher(case.resolved, 1), [None] * len(case.resolved.features)
    samples = SampleCount(case.resolved, SIZE, 1)
    return [batcher.make(each, True, samples.of(each, shapes, True)) for each in parsed]


@settings(max_examples=200, deadline=None)
@given(cases())
def test_the_buffers_are_those_of_a_list_of_ragged(case: Case) -> None:
    fast = host_batches(case, [read(case.resolved, each, "drop") for each in case.keyed])
    slow = host_batches(case, [read_one_by_one(case.resolved, each, "drop") for each in case.lists])
    for one, other in zip(fast, slow, strict=True):
        assert_same(one, other)


TABLES = [tte.TableConfig(10, 4, name=f"t{n}") for n in range(2)]
CONFIG = [
    tte.FeatureConfig(table, name=name)
    for table, name in zip(TABLES, ("user", "seen"), strict=True)
]
UNNAMED = [tte.FeatureConfig(table) for table in TABLES]
KEYED = Keyed(["seen", "user"], [1, 2, 3, 4, 7, 8], [1, 3, 1, 1])
LIST = [tte.Ragged.from_lists([[7], [8]]), tte.Ragged.from_lists([[1], [2, 3, 4]])]


@pytest.mark.parametrize("container", [list, tuple])
def test_uneven_keys_are_read_at_once_for_a_list_and_for_a_dict(container: type) -> None:
    for config in (container(CONFIG), {each.name: each for each in CONFIG}):
        bags = read(resolve(config, tte.Adagrad(0.1)), KEYED)
        assert isinstance(bags, UnevenBags)
    equal = Keyed(["seen", "user"], [1, 2, 7, 8], [1, 1, 1, 1])
    assert isinstance(read(resolve(container(CONFIG), tte.Adagrad(0.1)), equal), OneLengthBags)
    history = tte.FeatureConfig(TABLES[1], max_sequence_length=2, name="seen")
    config = container([CONFIG[0], history])
    assert isinstance(read(resolve(config, tte.Adagrad(0.1)), equal), UnevenBags)


def test_it_trains_and_serves_as_the_list() -> None:
    states, rows = [], []
    for batch in (KEYED, LIST):
        embedding = tte.TPUEmbedding(CONFIG, 2, tte.Adagrad(0.1), seed=0)
        for _ in range(3):
            embedding.enqueue(batch)
            activations = embedding.dequeue()
            embedding.apply_gradients([torch.ones_like(each) for each in activations])
        states.append(dict(embedding.state_dict()))
        rows.append(embedding.eval()(batch))
        on_host = tte.TPUEmbedding(CONFIG, 2, None, device="cpu", seed=0).eval()
        rows.append(on_host(batch))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    for one, other in zip(rows[:2], rows[2:], strict=True):
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(one, other, strict=True))


def test_it_brings_its_weights() -> None:
    weighted = Keyed(["seen", "user"], [1, 2, 7, 8], [1, 1, 1, 1], [1.0, 2.0, 3.0, 4.0])
    served = tte.TPUEmbeddingForServing(
        [
            tte.FeatureConfig(
                tte.TableConfig(10, 2, combiner="sum", initializer=tte.RowIdInitializer(1)),
                name=name,
            )
            for name in ("user", "seen")
        ]
    )
    assert [each[:, 0].tolist() for each in served(weighted)] == [[24, 36], [2, 6]]


def test_it_stands_for_a_list_within_a_nest() -> None:
    config = {"lists": [CONFIG], "other": tte.FeatureConfig(TABLES[0])}
    resolved, dense = resolve(config, tte.Adagrad(0.1)), torch.tensor([1, 2])
    found = read(resolved, {"lists": [KEYED], "other": dense})
    wanted = read(resolved, {"lists": [LIST], "other": dense})
    for pair in zip(found, wanted, strict=True):
        assert_same_bags(*pair)


def test_an_id_outside_is_named_with_its_feature_table_and_position() -> None:
    wrong = Keyed(["seen", "user"], [1, 2, 10, 4, 7, 8], [1, 3, 1, 1])
    match = r"feature 'seen' \(table 't1'\): id 10 at sample 1, position 1 is outside \[0, 10\)"
    with pytest.raises(ValueError, match=match):
        tte.TPUEmbedding(CONFIG, 2, tte.Adagrad(0.1)).enqueue(wrong)


def test_offsets_that_are_not_those_of_the_lengths_are_an_error() -> None:
    for offsets in ([0, 1, 4, 5, 5], [0, 2, 4, 5, 6], [0, 1, 4, 3, 6]):
        broken = Keyed(["seen", "user"], [1, 2, 3, 4, 7, 8], [1, 3, 1, 1])
        broken._offsets = torch.tensor(offsets, dtype=torch.int32)
        with pytest.raises(ValueError, match=r"^KeyedJaggedTensor: .*its lengths"):
            read(resolve(CONFIG, tte.Adagrad(0.1)), broken)


def error_of(config: Any, features: Any) -> str:
    with pytest.raises(ValueError, match="KeyedJaggedTensor") as error:
        tte.TPUEmbedding(config, 2, tte.Adagrad(0.1)).enqueue(features)
    return str(error.value)


def enqueue(config: Any, features: Any) -> list[list[int]]:
    """The ids of the features, in feature order."""
    tte.TPUEmbedding(config, 2, tte.Adagrad(0.1)).enqueue(features)
    return [each.ids.tolist() for each in read(resolve(config, tte.Adagrad(0.1)), features)]


def test_features_without_names_are_an_error_whose_remedies_work() -> None:
    features = Keyed(["user", "seen"], [7, 8, 1, 2, 3, 4], [1, 1, 1, 3])
    text = error_of([CONFIG[0], UNNAMED[1]], features)
    assert "by their names, but those at [1] have none" in text
    assert "FeatureConfig(table, name=key)" in text
    remedy = text.partition("enqueue a list: ")[2].partition(", the keys")[0]
    assert enqueue(UNNAMED, eval(remedy, {"features": features})) == [[7, 8], [1, 2, 3, 4]]
    named = [tte.FeatureConfig(t, name=key) for t, key in zip(TABLES, features.keys(), strict=True)]
    assert enqueue(named, features) == [[7, 8], [1, 2, 3, 4]]


def test_features_of_one_name_are_an_error_whose_remedy_works() -> None:
    features = Keyed(["user", "seen"], [7, 8, 1, 2, 3, 4], [1, 1, 1, 3])
    config = [tte.FeatureConfig(table, name="user") for table in TABLES]
    with pytest.warns(RuntimeWarning, match="all named 'user'"):
        text = error_of(config, features)
    assert "several are named ['user']" in text
    remedy = text.partition("enqueue a list: ")[2]
    with pytest.warns(RuntimeWarning, match="all named 'user'"):
        assert enqueue(config, eval(remedy, {"features": features})) == [[7, 8], [7, 8]]


def test_other_keys_are_an_error_whose_remedy_works() -> None:
    more = Keyed(["seen", "new", "user"], [1, 2, 3, 4, 9, 7, 8], [1, 3, 1, 0, 1, 1])
    text = error_of(CONFIG, more)
    assert "must have the names of the features as keys: missing [], unexpected ['new']" in text
    remedy = text.partition("leave others out by ")[2]
    assert enqueue(CONFIG, eval(remedy, {"features": more})) == [[7, 8], [1, 2, 3, 4]]

    text = error_of(CONFIG, Keyed(["seen"], [1, 2, 3, 4], [1, 3]))
    assert "missing ['user'], unexpected []; give each feature its key, with lengths of 0" in text
    none = Keyed(["seen", "user"], [1, 2, 3, 4], [1, 3, 0, 0])
    assert enqueue(CONFIG, none) == [[], [1, 2, 3, 4]]

    other = Keyed(["seen", "person"], [1, 2, 3, 4, 7, 8], [1, 3, 1, 1])
    text = error_of(CONFIG, other)
    assert "missing ['user'], unexpected ['person']; give each feature's key as its name" in text
    renamed = [tte.FeatureConfig(TABLES[0], name="person"), CONFIG[1]]
    assert enqueue(renamed, other) == [[7, 8], [1, 2, 3, 4]]


def test_a_nest_names_the_place_of_the_list() -> None:
    with pytest.raises(ValueError, match=r"features at 'lists/0': a KeyedJaggedTensor must have"):
        tte.TPUEmbedding({"lists": [CONFIG]}, 2, tte.Adagrad(0.1)).enqueue(
            {"lists": [Keyed(["seen"], [1, 2], [1, 1])]}
        )


def test_one_of_no_key_at_all_is_an_error() -> None:
    nothing = Keyed([], [], [])
    nothing.stride = lambda: 2  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"missing \['seen', 'user'\], unexpected \[\]"):
        read(resolve(CONFIG, tte.Adagrad(0.1)), nothing)

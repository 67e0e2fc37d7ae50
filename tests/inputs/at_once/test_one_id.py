"""Features of one id a sample are read and deduplicated at once, with the result of the general way."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.host_batches import assert_same, make_batches

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch import dedup
from torch_tpu_embedding.batch.at_once import keys as at_once_keys
from torch_tpu_embedding.batch.at_once.batch import OneLengthBatch
from torch_tpu_embedding.config.resolved import Resolved, resolve
from torch_tpu_embedding.inputs.at_once.bags import OneIdBags
from torch_tpu_embedding.inputs.parse import parse_features


@st.composite
def cases(draw: st.DrawFn) -> tuple[Resolved, list[Any], int, bool, int]:
    """Features of one id and bags over few tables, several batches of them, devices, training, B."""
    tables = [
        tte.TableConfig(
            draw(st.integers(1, 30)), dim, combiner=draw(st.sampled_from(["sum", "mean", "sqrtn"]))
        )
        for dim in draw(st.lists(st.sampled_from([4, 8]), min_size=1, max_size=4))
    ]
    chosen = draw(st.lists(st.sampled_from(tables), min_size=1, max_size=6))
    bags_of = draw(
        st.lists(st.sampled_from([0, 0, 0, 2, -1]), min_size=len(chosen), max_size=len(chosen))
    )
    devices, dtype = (
        draw(st.sampled_from([1, 1, 2])),
        draw(st.sampled_from([torch.int64, torch.int32])),
    )
    training, size = draw(st.booleans()), 4 * devices
    count = size if training else draw(st.integers(1, size + 2))
    count = count if devices == 1 else size
    batches = []
    for _ in range(draw(st.integers(1, 3))):
        batch: list[Any] = []
        for table, length in zip(chosen, bags_of, strict=True):
            ids = st.integers(0, table.vocabulary_size - 1)
            sizes = [length if length >= 0 else draw(st.integers(0, 3)) for _ in range(count)]
            rows = [draw(st.lists(ids, min_size=n or 1, max_size=n or 1)) for n in sizes]
            flat = torch.tensor([row[0] for row in rows], dtype=dtype)
            batch.append(tte.Ragged.from_lists(rows, dtype) if length else flat)
        batches.append(batch)
    resolved = resolve([tte.FeatureConfig(table) for table in chosen], tte.Adagrad(0.1))
    return resolved, batches, devices, training, size


@settings(max_examples=80, deadline=None)
@given(cases())
def test_the_buffers_are_those_of_the_reference(
    case: tuple[Resolved, list[Any], int, bool, int],
) -> None:
    resolved, batches, devices, training, size = case
    fast = make_batches(resolved, devices, batches, training, size, True)
    slow = make_batches(resolved, devices, batches, training, size, False)
    for one, other in zip(fast, slow, strict=True):
        assert_same(one, other)


def features(count: int = 3, **options: Any) -> list[tte.FeatureConfig]:
    return [
        tte.FeatureConfig(tte.TableConfig(10 + n, 4, name=f"t{n}"), **options) for n in range(count)
    ]


def read(config: Any, values: Any, **options: Any) -> Any:
    resolved = resolve(config, tte.Adagrad(0.1))
    shapes = [each.output_shape for each in resolved.features]
    return parse_features(resolved, values, options.get("weights"), None, "raise", shapes)


MATRIX = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_one_id_a_sample_is_read_at_once(dtype: torch.dtype) -> None:
    for values in ([*MATRIX.to(dtype).unbind(1)], MATRIX.to(dtype)):
        bags = read(features(), values)
        assert isinstance(bags, OneIdBags)
        assert torch.equal(bags.ids, MATRIX.t())


def test_everything_else_is_read_one_feature_after_another() -> None:
    ids = torch.tensor([1, 2])
    padded = [*features(2), tte.FeatureConfig(tte.TableConfig(9, 4, padding_idx=0))]
    assert isinstance(read(padded, [ids] * 3), list)
    assert isinstance(read(features(), [ids, ids, ids.to(torch.int16)]), list)
    assert isinstance(read(features(), [ids, ids, torch.tensor([3])]), list)
    assert isinstance(read(features(output_shape=(2,)), [ids] * 3), list)
    assert isinstance(read(features(), [ids[:, None]] * 3), list)


def make(device: str | None = None, **options: Any) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(features(), 2, tte.Adagrad(0.1), seed=0, device=device, **options)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_matrix_stands_for_a_list_of_features(dtype: torch.dtype) -> None:
    embedding, on_cpu, found = make(), make("cpu"), []
    columns = [*MATRIX.unbind(1)]
    for inputs in (MATRIX.to(dtype), columns):
        embedding.enqueue(inputs, training=False)
        found.append([each.cpu() for each in embedding.dequeue()])
    assert all(map(torch.equal, *found))
    assert all(map(torch.equal, on_cpu(MATRIX.to(dtype)), on_cpu(columns)))


def test_a_matrix_stands_for_a_list_within_a_nest() -> None:
    config = {"ids": features(), "user": tte.FeatureConfig(tte.TableConfig(5, 4, name="user"))}
    bags = read(config, {"ids": MATRIX, "user": torch.tensor([0, 1])})
    assert torch.equal(torch.stack([each.ids for each in bags[:3]], 1), MATRIX)


def test_the_loader_takes_matrices() -> None:
    embedding = make()
    for _ in tte.EmbeddingLoader([MATRIX, MATRIX + 1], embedding):
        embedding.dequeue()[0].sum().backward()
        embedding.apply_gradients()
        tte.runtime.sync()


def test_serving_takes_a_matrix() -> None:
    config = features()
    tables = {each.table: torch.randn(each.table.vocabulary_size, 4) for each in config}
    one = tte.serving_embedding_lookup(MATRIX, None, tables, config)
    other = tte.serving_embedding_lookup([*MATRIX.unbind(1)], None, tables, config)
    assert all(map(torch.equal, one, other))


def test_a_wrong_matrix_is_named_with_its_remedy() -> None:
    embedding = make()
    wide = MATRIX.t().contiguous()
    with pytest.raises(ValueError, match=r"shape \[B, 3\].*got \[3, 2\]; transpose it with .t\(\)"):
        embedding.enqueue(wide)
    with pytest.raises(
        ValueError, match=r"feature '0' \(table 't0'\).*torch.float32.*to\(torch.int64\)"
    ):
        embedding.enqueue(MATRIX.float())
    with pytest.raises(
        ValueError, match="got 3 samples, but TPUEmbedding was built for batch_size=2"
    ):
        embedding.enqueue(torch.cat([MATRIX, MATRIX])[:3])
    embedding.enqueue(wide.t())
    embedding.discard()
    embedding.enqueue(MATRIX.float().to(torch.int64))
    embedding.discard()


@pytest.mark.parametrize("wrong", [-1, 12, 2**40])
def test_an_id_outside_is_named_as_the_general_way_names_it(wrong: int) -> None:
    ids = MATRIX.clone()
    ids[1, 2] = wrong
    match = (
        rf"feature '2' \(table 't2'\): id {wrong} at sample 1 is outside \[0, 12\); correct the ids"
    )
    for inputs in (ids, [*ids.unbind(1)]):
        with pytest.raises(ValueError, match=match):
            make().enqueue(inputs)
    embedding = make(id_bounds="drop")
    embedding.enqueue(ids, training=False)
    assert not embedding.dequeue()[2][1].any()


@pytest.mark.parametrize(("devices", "with_bags"), [(1, True), (2, False), (2, True)])
def test_other_stacks_of_one_id_and_of_bags_are_deduplicated_by_ranks(
    devices: int, with_bags: bool
) -> None:
    values: list[Any] = [torch.zeros(4, dtype=torch.int64)] * 3
    if with_bags:
        values[2] = tte.Ragged.from_lists([[1, 2]] * 4)
    resolved = resolve(features(), tte.Adagrad(0.1))
    with mock.patch.object(
        dedup.Ranks, "unique_inverse", autospec=True, side_effect=dedup.Ranks.unique_inverse
    ) as taken:
        make_batches(resolved, devices, [values], True, 4, True)
    assert taken.called
    runs = [call.args[3] for call in taken.call_args_list if len(call.args) > 3]
    assert all(map(len, runs)) == (devices == 1), "one run a table, where rows lie on one device"


@pytest.mark.parametrize("training", [True, False])
def test_batches_of_one_id_are_packed_at_once_on_one_device(training: bool) -> None:
    resolved = resolve(features(), tte.Adagrad(0.1))
    with mock.patch.object(
        OneLengthBatch, "pack", autospec=True, side_effect=OneLengthBatch.pack
    ) as taken:
        make_batches(resolved, 1, [[torch.zeros(4, dtype=torch.int64)] * 3], training, 4, True)
    assert taken.called


@pytest.mark.parametrize("bits", [1, 32])
def test_keys_too_large_for_a_word_are_sorted_as_larger_ones(bits: int) -> None:
    config = [tte.FeatureConfig(tte.TableConfig(size, 4)) for size in (7, 3, 7)]
    shared = tte.TableConfig(9, 4)
    config = [tte.FeatureConfig(shared), *config, tte.FeatureConfig(shared)]
    resolved = resolve(config, tte.Adagrad(0.1))
    values = [torch.tensor([2, 0, n % 3, 2]) for n in range(5)]
    with mock.patch.object(at_once_keys, "_WORD", bits):
        (one,) = make_batches(resolved, 1, [values], True, 4, True)
    (other,) = make_batches(resolved, 1, [values], True, 4, False)
    assert_same(one, other)


@st.composite
def one_id_cases(draw: st.DrawFn) -> tuple[Resolved, list[torch.Tensor]]:
    """Features of one id over tables that some of them share, in several stacks; two batches `[B, F]`."""
    tables = [
        tte.TableConfig(draw(st.integers(1, 40)), dim)
        for dim in draw(st.lists(st.sampled_from([4, 8]), min_size=1, max_size=4))
    ]
    chosen = draw(st.lists(st.sampled_from(tables), min_size=1, max_size=7))
    dtype, size = draw(st.sampled_from([torch.int64, torch.int32])), draw(st.integers(1, 9))
    batches = []
    for _ in range(2):
        columns = [
            draw(st.lists(st.integers(0, t.vocabulary_size - 1), min_size=size, max_size=size))
            for t in chosen
        ]
        batches.append(torch.tensor(columns, dtype=dtype).t())
    return resolve([tte.FeatureConfig(table) for table in chosen], tte.Adagrad(0.1)), batches


@settings(max_examples=100, deadline=None)
@given(one_id_cases(), st.sampled_from([0, 32]), st.booleans(), st.booleans())
def test_one_pass_gives_the_buffers_of_the_reference(
    case: tuple[Resolved, list[torch.Tensor]], word: int, as_matrix: bool, contiguous: bool
) -> None:
    resolved, matrices = case
    before = [each.clone() for each in matrices]
    given_as = [each.contiguous() if contiguous else each for each in matrices]
    batches = given_as if as_matrix else [[*each.unbind(1)] for each in given_as]
    size = len(matrices[0])
    with mock.patch.object(at_once_keys, "_WORD", word):
        fast = make_batches(resolved, 1, batches, True, size, True)
    slow = make_batches(resolved, 1, batches, True, size, False)
    assert all(map(torch.equal, matrices, before)), "the user's ids stay as they are"
    for one, other in zip(fast, slow, strict=True):
        assert_same(one, other)

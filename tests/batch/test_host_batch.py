"""Padding, buckets and buffers of one batch on the host."""

from __future__ import annotations

import logging
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch.batcher import Batcher, HostBatch
from torch_tpu_embedding.batch.padding import _MOST_FALLS, _WINDOW, PaddedSize
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.group import Alone
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.inputs.bags import Bags, parse
from torch_tpu_embedding.program.stack_index import split_buffers
from torch_tpu_embedding.tables.layout import build_stacks


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=_WINDOW))
def test_a_padded_size_holds_what_it_must_and_grows_seldom(counts: list[int]) -> None:
    padded = PaddedSize("ids")
    sizes = [padded.fit(count) for count in counts]
    assert all(size >= count for size, count in zip(sizes, counts, strict=True))
    assert sizes == sorted(sizes), "within a window no size falls"
    assert all(after >= 17 / 16 * before for before, after in pairwise(sorted(set(sizes))))
    largest = max(counts)
    assert sizes[-1] <= 1.05 * (largest + max(largest / 16, 4 * largest**0.5)) + 16


@given(st.integers(1, 500), st.integers(0, 500))
def test_a_padded_size_with_a_limit_stays_near_it(limit: int, count: int) -> None:
    count = min(limit, count)
    assert count <= PaddedSize("ids").fit(count, limit) < limit + 8


def test_growth_after_the_first_batch_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    padded = PaddedSize("unique rows of 'user'")
    with caplog.at_level(logging.INFO, logger="torch_tpu_embedding"):
        padded.fit(10)
        padded.fit(100)
    assert [record.message for record in caplog.records] == [
        "padded size for unique rows of 'user' grows from 24 to 152"
    ]


def step(padded: PaddedSize, count: int) -> int:
    """The work of one process alone on each batch."""
    padded.take_agreed(padded.wish)
    return padded.fit(count)


def test_a_size_that_one_batch_has_raised_falls_again(caplog: pytest.LogCaptureFixture) -> None:
    padded = PaddedSize("ids")
    before = step(padded, 100)
    with caplog.at_level(logging.INFO, logger="torch_tpu_embedding"):
        assert step(padded, 10_000) > 10_000
        sizes = [step(padded, 100) for _ in range(2 * _WINDOW)]
    assert sizes[-1] == before
    assert f"falls from {sizes[0]} to {before}: no batch of {_WINDOW} needed more" in caplog.text


@settings(max_examples=10)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.integers(1, 3 * _WINDOW))
def test_however_counts_change_a_size_falls_only_so_often_and_holds_them(
    counts: list[int], times: int
) -> None:
    padded, sizes = PaddedSize("ids"), []
    for _ in range(12):
        for count in counts:
            for n in (100 * count, *[count] * (times // len(counts))):
                sizes.append(step(padded, n))
                assert sizes[-1] >= n
    assert sum(after < before for before, after in pairwise(sizes)) <= _MOST_FALLS


def test_counts_that_scatter_by_less_than_half_change_nothing() -> None:
    padded = PaddedSize("ids")
    first = step(padded, 1000)
    assert {step(padded, 600 + 57 * n % 400) for n in range(5 * _WINDOW)} == {first}


def test_a_size_that_fell_in_a_loader_has_fallen_for_the_next_one() -> None:
    main, loader, following = PaddedSize("ids"), PaddedSize("ids"), PaddedSize("ids")
    step(main, 10_000)
    loader.adopt(main)
    for _ in range(2 * _WINDOW):
        step(loader, 100)
    main.adopt(loader)
    following.adopt(main)
    assert main.size == following.size == loader.size < 1000
    step(main, 500)  # beside a loader that knows nothing of it
    main.adopt(following)
    assert main.size >= 500


def make(rows: list[list[int]], dense: list[int]) -> tuple[HostBatch, list[Bags]]:
    table = tte.TableConfig(20, 4, combiner="mean", name="t")
    other = tte.TableConfig(10, 4, combiner="sum", name="u")
    resolved = resolve([tte.FeatureConfig(table), tte.FeatureConfig(other)], tte.SGD())
    batcher = Batcher(resolved, build_stacks(resolved.tables, "CPU"), Placement(), Alone())
    inputs = [tte.Ragged.from_lists(rows), torch.tensor(dense)]
    bags = [
        parse(feature, resolved.table_of(feature), value)
        for feature, value in zip(resolved.features, inputs, strict=True)
    ]
    return batcher.make(bags), bags


samples = st.lists(st.lists(st.integers(0, 19), max_size=6), min_size=1, max_size=6)


@given(samples, st.data())
def test_buffers_lead_every_id_back_to_its_record(
    rows: list[list[int]], data: st.DataObject
) -> None:
    dense = data.draw(st.lists(st.integers(0, 9), min_size=len(rows), max_size=len(rows)))
    batch, bags = make(rows, dense)
    (index,) = split_buffers(batch.shapes, batch.ints, batch.floats)
    (shape,) = batch.shapes
    flat = [i for row in rows for i in row]
    valid = int(index.valid.sum())
    records = index.ints.record[:valid]
    assert records.tolist() == sorted({*flat, *(20 + i for i in dense)})
    assert index.ints.table[:valid].tolist() == [int(record >= 20) for record in records.tolist()]
    assert (index.ints.record[valid:] == shape.order.stack.padding_record).all()
    assert valid < shape.num_unique, "at least one record is padding"
    assert records[index.ints.to_one_hot].tolist() == [20 + i for i in dense]
    if shape.order.fixed_length:
        (span,) = shape.order.fixed_length
        by_bag = index.ints.to_fixed_length.view(span.form.length, -1).t()
        gains = index.floats.fixed_length_gain.view_as(by_bag.t()).t()
        assert [records[to[to < valid]].tolist() for to in by_bag] == rows
        assert torch.equal(gains[by_bag < valid], bags[0].gain)
        assert (gains[by_bag >= valid] == 0).all()
        assert len(index.ints.to_ragged) == 0
        return
    assert records[index.ints.to_ragged[: len(flat)]].tolist() == flat
    assert (index.ints.to_ragged[len(flat) :] >= valid).all(), "padding ids read the padding record"
    assert (index.floats.ragged_gain[len(flat) :] == 0).all()
    assert torch.equal(index.floats.ragged_gain[: len(flat)], bags[0].gain)
    assert index.ints.bag.tolist() == sorted(index.ints.bag.tolist())


@given(samples, st.data())
def test_positions_without_an_id_lead_to_padding(
    rows: list[list[int]], data: st.DataObject
) -> None:
    dense = data.draw(st.lists(st.integers(-1, 10), min_size=len(rows), max_size=len(rows)))
    table, other = tte.TableConfig(20, 4, name="t"), tte.TableConfig(10, 4, name="u")
    features = [tte.FeatureConfig(other), tte.FeatureConfig(table, max_sequence_length=3)]
    resolved = resolve(features, tte.SGD())
    batcher = Batcher(resolved, build_stacks(resolved.tables, "CPU"), Placement(), Alone())
    inputs = [torch.tensor(dense), tte.Ragged.from_lists(rows)]
    bags = [
        parse(feature, resolved.table_of(feature), value, id_bounds="drop")
        for feature, value in zip(resolved.features, inputs, strict=True)
    ]
    batch = batcher.make(bags)
    (index,) = split_buffers(batch.shapes, batch.ints, batch.floats)
    padding = batch.shapes[0].order.stack.padding_record
    wanted = [i if 0 <= i < 10 else padding for i in dense]
    for row in rows:
        wanted += [*(10 + i for i in row[:3]), *[padding] * (3 - len(row))]
    assert index.ints.record[index.ints.to_one_hot].tolist() == wanted


def test_a_batch_without_any_id_is_all_padding() -> None:
    table = tte.TableConfig(20, 4)
    resolved = resolve([tte.FeatureConfig(table)], tte.SGD())
    batcher = Batcher(resolved, build_stacks(resolved.tables, "CPU"), Placement(), Alone())
    (feature,) = resolved.features
    bags = parse(feature, resolved.tables[0], tte.Ragged.from_lists([[], []]))
    batch = batcher.make([bags])
    (index,) = split_buffers(batch.shapes, batch.ints, batch.floats)
    assert not index.valid.any()
    assert (index.floats.ragged_gain == 0).all()

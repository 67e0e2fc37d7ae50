"""Records written whole, as the row kernels take them, against the scatter-add of changes, bit for bit.

On an eager device plain torch stands in for the kernels (test_kernel_source.py compares the two), and all
of the program around them runs here.
"""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from models.helpers import gradient_of
from models.laws import (
    AMPLIFIED,
    OPTIMIZERS,
    Batch,
    Fast,
    assert_close,
    assert_same,
    batches,
    config,
)
from programs import kernels_on_cpu
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.learning_rates import FROZEN
from torch_tpu_embedding.kernels.narrow_records import merge_into_rows
from torch_tpu_embedding.kernels.write_rows import write_marked_rows, write_records
from torch_tpu_embedding.reference import ReferenceEmbedding
from torch_tpu_embedding.runtime import DeviceKind

DIMS = (1, 2, 3, 5, 16, 32, 48, 64, 100, 128, 130, 192, 300)


@pytest.fixture(scope="module", autouse=True)
def kernels_take_few_records() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        kernels_on_cpu.take_few(patch)
        yield


def of_dim(dim: int, optimizer: tte.optimizers.Optimizer) -> list[tte.FeatureConfig]:
    tables = [tte.TableConfig(40, dim, name="a"), tte.TableConfig(23, dim, name="b")]
    return [tte.FeatureConfig(table, name=table.name) for table in (*tables, tables[0])]


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=20)
@given(st.lists(batches(), min_size=1, max_size=3))
def test_steps_equal_those_of_the_scatter_bit_for_bit_and_the_reference(
    name: str, steps: list[Batch]
) -> None:
    optimizer = OPTIMIZERS[name]
    features = config(optimizer)
    kernels, scatter = (Fast(features, optimizer, "TPU", row_kernels=on) for on in (True, False))
    reference = ReferenceEmbedding(features, optimizer, kernels.state())
    for batch in steps:
        pairs = zip(kernels.step(batch), scatter.step(batch), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        wanted = reference.look_up(batch)
        reference.apply_gradients(batch, [gradient_of(each) for each in wanted])
    assert_same(kernels.state(), scatter.state())
    assert_close(kernels.state(), reference.state, AMPLIFIED.get(name, 2e-5))


@pytest.mark.parametrize(
    ("dim", "written"), [(1, True), (64, True), (512, True), (513, False)], ids=str
)
def test_records_of_up_to_1024_lanes_are_laid_out_for_kernels(dim: int, written: bool) -> None:
    optimizer = tte.Adagrad(0.1)
    fast = Fast(of_dim(dim, optimizer), optimizer, "TPU", row_kernels=True)
    for stack in fast.engine.store.stacks:
        for array in stack.arrays:
            assert array.written_by_kernel == written
            assert not written or array.shape[1] == 128


def test_other_kinds_and_rules_are_not_laid_out_for_kernels() -> None:
    for name, kind in (("adagrad", "CPU"), ("adagrad-each", "TPU"), ("adam-not-lazy", "TPU")):
        optimizer = OPTIMIZERS[name]
        kinds: dict[str, DeviceKind] = {"CPU": "CPU", "TPU": "TPU"}
        fast = Fast(of_dim(64, optimizer), optimizer, kinds[kind], row_kernels=True)
        assert not any(stack.uses_kernels for stack in fast.engine.store.stacks)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
@settings(max_examples=10)
@given(data=st.data())
def test_records_of_every_width_equal_the_scatter(name: str, dim: int, data: st.DataObject) -> None:
    optimizer = OPTIMIZERS[name]
    features = of_dim(dim, optimizer)
    kernels, scatter = (Fast(features, optimizer, "TPU", row_kernels=on) for on in (True, False))
    ids = [st.lists(st.integers(0, top), min_size=1, max_size=1) for top in (39, 22, 39)]
    for _ in range(2):
        batch = [
            [
                [(i, 1.0) for i in sample]
                for sample in data.draw(st.lists(of, min_size=4, max_size=4))
            ]
            for of in ids
        ]
        pairs = zip(kernels.step(batch), scatter.step(batch), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert_same(kernels.state(), scatter.state())


@pytest.mark.parametrize("width", [1, 2, 8, 32, 64])
@given(st.sets(st.integers(0, 500), max_size=60), st.integers(0, 5))
def test_records_that_share_rows_are_merged_into_each_row_once(
    width: int, chosen: set[int], padding: int
) -> None:
    per_row = 128 // width
    record = torch.tensor([*sorted(chosen), *[510] * padding], dtype=torch.int32)
    bits = torch.randint(-(2**31), 2**31, (520 // per_row + 1, 128), dtype=torch.int64)
    array = bits.to(torch.int32).view(torch.float32)  # nan, infinite, denormal: all are kept
    records = torch.randn(len(record), width)
    row = record // per_row
    number, rows = merge_into_rows(
        array[row.long()],
        torch.where(record == 510, -1, row),
        record % per_row,
        records,
    )
    assert sorted(set(row[: len(chosen)].tolist())) == number[number >= 0].tolist()
    wanted = array.clone()
    wanted.view(-1, width)[record[: len(chosen)].long()] = records[: len(chosen)]
    write_marked_rows(array, number, rows)
    assert torch.equal(array.view(torch.int32), wanted.view(torch.int32))


def test_records_beyond_the_count_are_not_written() -> None:
    array = torch.zeros(12, 128)
    record = torch.tensor([4, 1, 5], dtype=torch.int32)
    write_records(array, record, torch.ones(3, 256), torch.tensor([2], dtype=torch.int32))
    assert array.view(6, 256)[:, 0].tolist() == [0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("dim", [2, 32, 64, 128])
def test_frozen_tables_keep_every_bit(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = tte.Adagrad(0.5)
    fast = Fast(of_dim(dim, optimizer), optimizer, "TPU", row_kernels=True)
    before: dict[str, Tensor] = fast.state()
    monkeypatch.setattr("models.laws.current_rates", lambda tables: [FROZEN, 0.5])
    fast.step([[[(1, 1.0)], [(2, 1.0)]], [[(0, 1.0)], [(1, 1.0)]], [[(39, 1.0)], [(1, 1.0)]]])
    for key, value in fast.state().items():
        same = torch.equal(value.view(torch.int32), before[key].view(torch.int32))
        assert same == key.startswith("a."), key

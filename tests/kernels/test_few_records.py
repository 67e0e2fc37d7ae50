"""The least work that kernels take: below it a step would cost more with them than without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.helpers import tensors
from programs import kernels_on_cpu
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.kernels import sum_rows
from torch_tpu_embedding.program import records
from torch_tpu_embedding.tables.layout import ArrayLayout, build_stacks


def layout(width: int, per_row: int = 1, written: bool = True) -> ArrayLayout:
    return ArrayLayout(("weight",), (width,), width, per_row, 50_000, written_by_kernel=written)


def test_few_records_that_share_rows_are_left_to_the_scatter() -> None:
    """The bound is the one that docs/row_kernels.md states."""
    writes = [records.kernel_writes(layout(32, 4), count) for count in (1, 1023, 1024, 5000)]
    assert writes == [False, False, True, True]


@pytest.mark.parametrize("width", [128, 256])
def test_records_of_whole_rows_are_written_by_the_kernel_however_few(width: int) -> None:
    assert all(records.kernel_writes(layout(width), count) for count in (1, 31, 5000))


@pytest.mark.parametrize(("width", "per_row"), [(128, 1), (32, 4)])
def test_more_than_a_record_for_eight_rows_of_an_array_are_left_to_the_scatter(
    width: int, per_row: int
) -> None:
    array = layout(width, per_row)
    writes = [records.kernel_writes(array, count) for count in (6_250, 6_251, 50_000)]
    assert writes == [True, False, False]


def test_arrays_that_are_not_laid_out_for_kernels_never_are() -> None:
    assert not any(records.kernel_writes(layout(w, written=False), 5000) for w in (128, 256))


def test_sums_of_few_lookups_are_left_to_xla() -> None:
    fits = [sum_rows.fits_kernel(1000, lookups, 1000, 64) for lookups in (8191, 8192)]
    assert fits == [False, True]


def train(row_kernels: Any, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """The tables after steps of so many ids: some give few records, some enough."""
    features = {
        str(dim): tte.FeatureConfig(tte.TableConfig(400, dim, name=f"d{dim}"), name=str(dim))
        for dim in (8, 64, 128)
    }
    embedding = tte.TPUEmbedding(
        features, max(sizes), tte.Adagrad(0.1), layout="TPU", seed=3, row_kernels=row_kernels
    )
    random = torch.Generator().manual_seed(1)
    for size in sizes:
        ids = torch.randint(0, size, (3, max(sizes)), generator=random)
        rows = embedding(dict(zip(features, ids.unbind(), strict=True)))
        torch.stack([each.square().sum() for each in rows.values()]).sum().backward()
        embedding.apply_gradients()
        tte.runtime.sync()
    return tensors(embedding)


def test_steps_of_few_records_and_then_of_many_equal_those_of_the_scatter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels_on_cpu.use(monkeypatch)
    monkeypatch.setattr(records, "FEWEST_MARKED_ROWS", 50)
    written: list[tuple[str, int]] = []
    for name in ("write_records", "write_marked_rows"):
        kernel = getattr(records, name)

        def seen(*given: Tensor, kernel: Any = kernel, name: str = name) -> None:
            written.append((name, len(given[1])))
            kernel(*given)

        monkeypatch.setattr(records, name, seen)
    sizes = 4, 400
    found = train("on", sizes)
    kernels = sorted(name for name, count in written if count >= 50)
    assert kernels == ["write_marked_rows", "write_records", "write_records"]
    assert [name for name, count in written if count < 50] == ["write_records"] * 2
    torch.testing.assert_close(found, train("off", sizes), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("optimizer", "dim", "vocabulary", "written"),
    [
        (tte.Adagrad(0.1), 16, 100_000, False),  # 13 MB
        (tte.Adagrad(0.1), 64, 20_000, False),  # 10 MB
        (tte.Adagrad(0.1), 64, 100_000, True),  # 51 MB
        (tte.SGD(0.1), 16, 1 << 20, True),  # 67 MB
        (tte.Adagrad(0.1), 128, 50_000, False),  # 51 MB, records of two rows
        (tte.Adagrad(0.1), 128, 150_000, True),
        (tte.optimizers.RowWiseAdagrad(0.1), 16, 1 << 20, False),  # 67 MB, and a vector
        (tte.optimizers.RowWiseAdagrad(0.1), 128, 100_000, False),  # 51 MB
        (tte.optimizers.RowWiseAdagrad(0.1), 16, 1 << 22, True),
        (tte.optimizers.RowWiseAdagrad(0.1), 128, 300_000, True),
    ],
)
def test_arrays_that_fit_on_the_chip_are_left_to_the_scatter(
    optimizer: tte.optimizers.Optimizer, dim: int, vocabulary: int, written: bool
) -> None:
    """XLA may bring them in; of wide records, or beside a vector, larger ones, too."""
    table = tte.TableConfig(vocabulary, dim, optimizer=optimizer)
    tables = resolve([tte.FeatureConfig(table)], None).tables
    (stack,) = build_stacks(tables, "TPU", row_kernels=True)
    assert stack.arrays[0].written_by_kernel == written
    assert not any(array.written_by_kernel for array in stack.arrays[1:])

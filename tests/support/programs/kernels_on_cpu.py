"""The row kernels' work in ATen operators, so that programs around them can be traced, compiled and run on
XLA's CPU device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torch_tpu_embedding.kernels.sum_rows import sum_rows
from torch_tpu_embedding.program import build, lookup, records, update
from torch_tpu_embedding.tables import layout


def write_records(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    """The first `count` records, written; the others keep what is there."""
    whole = array.view(-1, values.shape[1])
    place = torch.arange(len(record), dtype=torch.int32, device=array.device)
    _write(array, whole, record, values, place < count)


def write_marked_rows(array: Tensor, row: Tensor, values: Tensor) -> None:
    """The rows whose number is not negative, written."""
    _write(array, array, row, values, row >= 0)


def _write(array: Tensor, whole: Tensor, record: Tensor, values: Tensor, chosen: Tensor) -> None:
    padded = torch.cat([whole, whole[:1]])  # with a record that takes what is not written
    there = torch.where(chosen, record, whole.shape[0]).long()
    written = padded.index_copy(0, there, values)
    array.copy_(written[:-1].reshape(array.shape))


def sums(*lookups: Any, by_kernel: bool = False) -> Tensor:
    """The sums of rows, by XLA."""
    return sum_rows(*lookups[:5], by_kernel=False)


def use(patch: pytest.MonkeyPatch) -> None:
    """Let tables of layout 'TPU' be written by these, however few records there are."""
    patch.setattr(build, "on_a_tpu", lambda: True)
    patch.setattr(build, "kernels_work", lambda exchange, arrays: True)
    patch.setattr(lookup, "sum_rows", sums)
    patch.setattr(update, "sum_rows", sums)
    take_few(patch)
    patch.setattr(records, "write_records", write_records)
    patch.setattr(records, "write_marked_rows", write_marked_rows)


def take_few(patch: pytest.MonkeyPatch) -> None:
    """Let kernels write as few records as tests have, of tables as small as theirs."""
    patch.setattr(records, "FEWEST_MARKED_ROWS", 1)
    patch.setattr(records, "ROWS_A_RECORD", 0)
    for name in ("_ON_CHIP", "_MOST_ON_CHIP"):
        patch.setattr(layout, name, 0)

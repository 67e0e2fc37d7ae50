"""Rows are added to a table out of place, to the same program as in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_xla
import torch_xla.debug.metrics as met
from torch import Tensor

import torch_tpu_embedding as tte

ROWS = 1709
"""A number of rows that no other program of the process has: one that is there already shows no count."""


def add_in_place(table: Tensor, rows: Tensor, change: Tensor) -> None:
    table.index_add_(0, rows, change)


def add_out_of_place(table: Tensor, rows: Tensor, change: Tensor) -> None:
    table.copy_(table.index_add(0, rows, change))


def added(add: Callable[[Tensor, Tensor, Tensor], None], rows: int) -> tuple[str, float, Tensor]:
    """The program's text, the number of arguments it updates in place, and the table after it."""
    device = tte.runtime.device()
    table = tte.runtime.upload(torch.ones(rows, 8), device)
    where = tte.runtime.upload(torch.tensor([3, 5, 3, 0]), device)
    change = tte.runtime.upload(
        torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), device
    )
    add(table, where, change)
    text = torch_xla._XLAC._get_xla_tensors_hlo([table])
    tte.runtime.sync()
    return text, met.metric_data("InputOutputAliasCount")[2][-1][1], table.cpu()


def test_the_program_is_the_same_and_the_table_is_updated_in_place() -> None:
    text, _, table = added(add_in_place, ROWS)
    ours, donors, our_table = added(add_out_of_place, ROWS)
    assert ours == text
    assert torch.equal(our_table, table)
    assert donors == 1
    # In a program of its own, for the one above may be that which was compiled first.
    assert added(add_out_of_place, ROWS + 1)[1] == added(add_in_place, ROWS + 2)[1] == 1

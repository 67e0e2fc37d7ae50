"""The border of the checkpoint package: what it asks of an embedding is the rows of this process.

Letter: n rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..config.resolved import WEIGHT, Table, field_shape
from ..distributed.group import HostGroup

BLOCK_BYTES = 8 << 20
"""Bytes of a table that are in memory at a time, all fields together."""


class Shard(Protocol):
    """This process's rows of every table."""

    @property
    def tables(self) -> Sequence[Table]:
        """All tables, the same in the same order on every process."""

    @property
    def group(self) -> HostGroup:
        """The processes that hold the other rows."""

    @property
    def strategy(self) -> str:
        """The way in which ids are dealt to processes: 'mod' or 'div'."""

    def ids(self, table: int) -> range:
        """The ids held here, in storage order; may be empty.

        Args:
            table: the position in `tables`.
        """

    def read_rows(self, table: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start … stop-1, counted through `ids(table)`: field → CPU float32
        `[stop - start, width]`, a fresh copy.

        Args:
            table: the position in `tables`.
            start: the first local row.
            stop: the local row after the last one.
        """

    def read_scattered(self, table: int, rows: Tensor) -> dict[str, Tensor]:
        """The rows of some local numbers: field → CPU float32 `[n, width]`, a fresh copy.

        Args:
            table: the position in `tables`.
            rows: local numbers `[n]`, int64, rising.
        """

    def write_rows(self, table: int, start: int, values: dict[str, Tensor]) -> None:
        """Set rows from `start` on.

        Args:
            table: the position in `tables`.
            start: the first local row.
            values: field → float32 `[n, width]`, for any of the fields.
        """

    def write_scattered(self, table: int, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Set the rows of some local numbers.

        Args:
            table: the position in `tables`.
            rows: local numbers `[n]`, int64, each once.
            values: field → float32 `[n, width]`, for any of the fields.
        """

    def set_mark(self) -> int:
        """Set a delta mark, since which `changed_since` tells the changed rows; gives the mark's number."""

    def changed_since(self, table: int, mark: int) -> Tensor:
        """Local numbers (int64, rising) of the rows changed since a delta mark was set.

        Args:
            table: the position in `tables`.
            mark: the delta mark, as `set_mark()` gave it.
        """


class HasShard(Protocol):
    """An embedding, as the functions of this package take it."""

    @property
    def shard(self) -> Shard:
        """The rows of this process."""


def field_widths(table: Table) -> dict[str, int]:
    """Field → numbers a row: 'weight' first, then the slots."""
    return {name: field_shape(table, name)[1] for name in (WEIGHT, *table.slot_names)}


def block_rows(widths: Mapping[str, int]) -> int:
    """The number of rows of a table with fields of these widths that make one block."""
    return max(1, BLOCK_BYTES // (4 * sum(widths.values())))


TableBlock = tuple[str, dict[str, Tensor]]
"""Table name and field → rows `[n, width]` as they are saved, float32, or bfloat16 for the weights of a
table of that dtype; int64 `[n]` for the ids of a delta; fields of maps have dtypes of their own."""


def all_blocks(shard: Shard) -> Iterator[TableBlock]:
    """Every row held here, table by table, block by block."""
    for number, table in enumerate(shard.tables):
        rows, step = len(shard.ids(number)), block_rows(field_widths(table))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            values = shard.read_rows(number, start, stop)
            yield table.name, _checked(table, stop - start, "read_rows", values)


def changed_blocks(shard: Shard, changed: Sequence[Tensor]) -> Iterator[TableBlock]:
    """The rows with the given local numbers, with their ids under 'ids'.

    Args:
        changed: per table, int64 and rising.

    No other row is read: a delta costs as much as was changed, not as much as the table holds.
    """
    for number, table in enumerate(shard.tables):
        ids, step = shard.ids(number), block_rows(field_widths(table))
        for rows in torch.split(changed[number], step):
            if len(rows):
                values = shard.read_scattered(number, rows)
                values = _checked(table, len(rows), "read_scattered", values)
                yield table.name, {"ids": rows * ids.step + ids.start, **values}


def _checked(table: Table, rows: int, call: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, width in field_widths(table).items():
        found = values[name]
        if [*found.shape] != [rows, width] or found.dtype != torch.float32:
            raise ValueError(
                f"table {table.name!r}: {call} gave {found.dtype} {[*found.shape]} for {name!r}, "
                f"expected torch.float32 {[rows, width]}"
            )
    return {name: value.to(table.dtype_of(name)) for name, value in values.items()}

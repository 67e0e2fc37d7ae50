"""Rows in memory that checkpoints take for an embedding's: for the fault campaign and for tests."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torch_tpu_embedding.config.resolved import Table
from torch_tpu_embedding.distributed.group import HostGroup
from torch_tpu_embedding.distributed.placement import Placement, Strategy


class MemoryShard:
    """One process's rows, placed as an embedding places them; subclasses fill them and list changed rows.

    Args:
        tables: all tables, the same on every process.
        group: the processes that hold the other rows.
    """

    def __init__(
        self, tables: Sequence[Table], group: HostGroup, strategy: Strategy = "mod"
    ) -> None:
        self.tables, self.group, self.strategy = tables, group, strategy
        self.held: list[dict[str, Tensor]] = []
        """Per table its fields, `[rows held here, width]` each."""
        self._placement = Placement(strategy, group.size, group.rank)

    def ids(self, table: int) -> range:
        return self._placement.ids(table, self.tables[table].vocabulary_size)

    def read_rows(self, table: int, start: int, stop: int) -> dict[str, Tensor]:
        return {name: rows[start:stop].clone() for name, rows in self.held[table].items()}

    def read_scattered(self, table: int, rows: Tensor) -> dict[str, Tensor]:
        return {name: held[rows] for name, held in self.held[table].items()}

    def write_rows(self, table: int, start: int, values: dict[str, Tensor]) -> None:
        for name, rows in values.items():
            self.held[table][name][start : start + len(rows)] = rows

    def write_scattered(self, table: int, rows: Tensor, values: dict[str, Tensor]) -> None:
        for name, each in values.items():
            self.held[table][name][rows] = each

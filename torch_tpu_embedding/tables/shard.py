"""The rows that a process holds, read and written block by block: what checkpoints work on.

Letter: n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..config.resolved import WEIGHT, Table
from ..distributed.group import Alone, HostGroup
from ..distributed.placement import Strategy
from ..runtime import host
from ..runtime.modes import for_tables
from ..vocabularies.live import LiveVocabularies
from .access.scoring import HostScorer, Scorer
from .store import TableStore


class OpenSteps(Protocol):
    """The steps of training on some tables, as far as saving and loading these must know of them."""

    def with_gradients(self) -> int:
        """How many batches have gradients that are not applied."""

    def drop(self) -> int:
        """Forget the steps that have gradients which are not applied; gives how many batches they had."""


class HostRows:
    """Tables and slots that are ordinary tensors of the host, whole; read as float32."""

    strategy: Strategy = "mod"
    updates: int | None = None
    """As in `DeviceRows`; these tables have no updates."""

    def __init__(
        self,
        tables: Sequence[Table],
        values: Sequence[dict[str, Tensor]],
        vocabularies: LiveVocabularies | None = None,
    ) -> None:
        self.tables = tables
        self.vocabularies = vocabularies
        """The maps of tables with a DynamicVocabulary; None if there is none."""
        self.group: HostGroup = Alone()
        self._values = values

    def ids(self, table: int) -> range:
        """The ids of a table held here."""
        return range(self.tables[table].vocabulary_size)

    def read_rows(self, table: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start … stop-1: field → `[n, width]`, a copy."""
        return {
            name: value.detach()[start:stop].to(torch.float32, copy=True)
            for name, value in self._values[table].items()
        }

    def read_scattered(self, table: int, rows: Tensor) -> dict[str, Tensor]:
        """The rows of these numbers `[n]` (int64, rising): field → `[n, width]`, a copy."""
        return {name: value.detach()[rows].float() for name, value in self._values[table].items()}

    def read_few(self, table: int, rows: Tensor, field: str, most: int | None = None) -> Tensor:
        """One field `[n, width]` of the rows of these numbers `[n]` (int64, rising), a copy."""
        return self._values[table][field].detach()[rows].float()

    def scorer(self, table: int) -> HostScorer:
        """A search among the rows of a table."""
        return HostScorer(self._values[table][WEIGHT].float())

    @for_tables
    def write_rows(self, table: int, start: int, values: dict[str, Tensor]) -> None:
        """Set rows from `start` on; any subset of the fields."""
        for name, value in values.items():
            self._values[table][name][start : start + len(value)] = value

    @for_tables
    def write_scattered(
        self, table: int, rows: Tensor, values: dict[str, Tensor], most: int | None = None
    ) -> None:
        """Set the rows of these numbers."""
        for name, value in values.items():
            there = self._values[table][name]
            there[rows] = value.to(there.dtype)  # which has all of these numbers

    def set_mark(self) -> int:
        """The delta mark 0: these tables are not trained, so every row counts as changed."""
        return 0

    def changed_since(self, table: int, mark: int) -> Tensor:
        """All rows."""
        return host.arange(len(self.ids(table)))


class DeviceRows:
    """Tables and slots in the arrays of a store; rows are counted through `ids(table)`.

    Args:
        group: the processes that hold the other rows.
        flush: applies the updates that are held back; called before rows are looked at or written.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        store: TableStore,
        group: HostGroup,
        strategy: Strategy,
        flush: Callable[[], None],
        vocabularies: LiveVocabularies | None = None,
        open_steps: OpenSteps | None = None,
    ) -> None:
        self.tables = tables
        self.open_steps = open_steps
        """The steps of training whose gradients are not applied; None if nobody trains these tables."""
        self.vocabularies = vocabularies
        """The maps of tables with a DynamicVocabulary; None if there is none."""
        self.group = group
        self.strategy: Strategy = strategy
        self._store = store
        self._flush = flush

    @property
    def updates(self) -> int | None:
        """The number of updates so far, on which the random bits of rounding depend; None if all tables are
        float32, to which it means nothing."""
        self._flush()
        return self._store.updates if any(table.in_bfloat16 for table in self.tables) else None

    @updates.setter
    def updates(self, count: int) -> None:
        self._store.updates = count

    def ids(self, table: int) -> range:
        """The ids of a table held here, in the order of its rows."""
        return self._store.ids(table)

    def read_rows(self, table: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start … stop-1: field → CPU `[n, width]`, a copy."""
        self._flush()
        return self._store.read_rows(table, start, stop)

    def read_scattered(self, table: int, rows: Tensor) -> dict[str, Tensor]:
        """The rows of these numbers `[n]` (int64, rising): field → CPU `[n, width]`, a copy."""
        self._flush()
        return self._store.read_scattered(table, rows)

    def write_rows(self, table: int, start: int, values: dict[str, Tensor]) -> None:
        """Set rows from `start` on; any subset of the fields."""
        self._flush()
        self._store.write_rows(table, start, values)

    def read_few(self, table: int, rows: Tensor, field: str, most: int | None = None) -> Tensor:
        """One field of the rows of these numbers (int64, rising): CPU `[n, width]`, a copy.

        Args:
            most: None, or the most rows that any process reads in this call.
        """
        self._flush()
        return self._store.read_few(table, rows, field, most)

    def scorer(self, table: int) -> Scorer:
        """A search among the rows of a table that are held here."""
        self._flush()
        return self._store.scorer(table)

    def write_scattered(
        self, table: int, rows: Tensor, values: dict[str, Tensor], most: int | None = None
    ) -> None:
        """Set the rows of these numbers (int64, unique); any subset of the fields.

        Args:
            most: None, or the most rows that any process writes in this call.
        """
        self._flush()
        rising, order = rows.sort()
        chosen = {name: value[order] for name, value in values.items()}
        self._store.write_few(table, rising, chosen, most)

    def set_mark(self) -> int:
        """Set a delta mark, since which `changed_since` tells the changed rows; gives the mark's number."""
        self._flush()
        return self._store.delta_tracker.set_mark()

    def changed_since(self, table: int, mark: int) -> Tensor:
        """The rows `[n]` (int64, rising) that changed since the delta mark `mark` was set."""
        self._flush()
        return self._store.changed_since(table, mark)

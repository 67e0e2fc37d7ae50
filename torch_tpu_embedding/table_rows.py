"""The rows that a process holds, read and written block by block: what checkpoints work on.

A block goes through the device as a window of physical rows of one size, so that reading and writing are
one small program each, and nothing of a table's size is ever on the host beside the table.
Letters: L devices of this process, n rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import runtime
from .config import Resolved, Table
from .engine import Engine
from .host_group import Alone, HostGroup
from .layout import ArrayLayout, StackLayout
from .sharding import Strategy, ceil_div

_WINDOW_BYTES = 8 << 20


class HostRows:
    """Tables and slots that are ordinary tensors of the host, whole."""

    strategy: Strategy = "mod"

    def __init__(self, tables: Sequence[Table], held: Sequence[dict[str, Tensor]]) -> None:
        self.tables = tables
        self.group: HostGroup = Alone()
        self._held = held

    def ids(self, table: int) -> range:
        """The ids of a table held here."""
        return range(self.tables[table].vocabulary_size)

    def read_rows(self, table: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start … stop-1: field → `[n, width]`, a copy."""
        return {
            name: value.detach()[start:stop].clone() for name, value in self._held[table].items()
        }

    @torch.no_grad()
    def write_rows(self, table: int, start: int, values: dict[str, Tensor]) -> None:
        """Set rows from `start` on; any subset of the fields."""
        for name, value in values.items():
            self._held[table][name][start : start + len(value)] = value

    @torch.no_grad()
    def write_scattered(self, table: int, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Set the rows of these numbers."""
        for name, value in values.items():
            self._held[table][name][rows] = value

    def epoch(self) -> int:
        """These tables are not trained: every row counts as touched."""
        return 0

    def touched_since(self, table: int, epoch: int) -> Tensor:
        """All rows."""
        return torch.arange(len(self.ids(table)))


class DeviceRows:
    """Tables and slots in the arrays of an engine; rows are counted through `ids(table)`."""

    def __init__(self, resolved: Resolved, engine: Engine) -> None:
        self.tables = resolved.tables
        self.group = engine.exchange.group
        self.strategy: Strategy = engine.placement.strategy
        self._engine = engine
        self._devices = engine.placement.local_devices
        self._stack_of = {
            table: number
            for number, stack in enumerate(engine.store.stacks)
            for table in stack.table_indices
        }

    def ids(self, table: int) -> range:
        """The ids of a table held here, in the order of its rows."""
        return self._engine.store.ids(table)

    @torch.no_grad()
    def read_rows(self, table: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start … stop-1: field → CPU `[n, width]`, a copy."""
        store, number = self._engine.store, self._stack_of[table]
        stack, step = store.stacks[number], self._window(store.stacks[number])
        out = {
            name: torch.empty(stop - start, store.field_shape(table, name)[1])
            for name in stack.fields
        }
        self._end_step()
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            held = [
                self._fetch(number, at, self._first_rows(stack, layout, table, begin, end))
                for at, layout in enumerate(stack.arrays)
            ]
            for name, there, lane in self._pieces(stack, held, table, begin, end):
                out[name][begin - start : end - start][there] = lane
        return out

    @torch.no_grad()
    def write_rows(self, table: int, start: int, values: dict[str, Tensor]) -> None:
        """Set rows from `start` on; any subset of the fields."""
        store, number = self._engine.store, self._stack_of[table]
        stack, step = store.stacks[number], self._window(store.stacks[number])
        stop = start + len(next(iter(values.values())))
        self._end_step()
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            for at, layout in enumerate(stack.arrays):
                if not values.keys() & set(layout.fields):
                    continue
                first = self._first_rows(stack, layout, table, begin, end)
                held: list[Tensor | None] = [None] * len(stack.arrays)
                held[at] = self._fetch(number, at, first)
                for name, there, lane in self._pieces(stack, held, table, begin, end):
                    if name in values:
                        lane.copy_(values[name][begin - start : end - start][there])
                self._put(number, at, first, held[at])
        records = [
            torch.arange(*self._records(stack, table, device, start, stop))
            for device in range(self._devices)
        ]
        store.touched.touch(number, records)
        self._engine.version += 1

    def write_scattered(self, table: int, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Set the rows of these numbers (int64, unique), a block of the table at a time."""
        step = self._window(self._engine.store.stacks[self._stack_of[table]])
        for block in torch.unique(rows // step).tolist():
            start, stop = block * step, min((block + 1) * step, len(self.ids(table)))
            chosen = (rows // step) == block
            fields = self.read_rows(table, start, stop)
            for name, value in values.items():
                fields[name][rows[chosen] - start] = value[chosen]
            self.write_rows(table, start, {name: fields[name] for name in values})

    def epoch(self) -> int:
        """Begin an epoch: rows changed from now on count as touched in it. Gives its number."""
        return self._engine.store.touched.begin_epoch()

    def touched_since(self, table: int, epoch: int) -> Tensor:
        """The rows `[n]` (int64, rising) that changed in that epoch or later."""
        store, number = self._engine.store, self._stack_of[table]
        touched = torch.zeros(len(self.ids(table)), dtype=torch.bool)
        for device in range(self._devices):
            first, end = self._records(store.stacks[number], table, device, 0, len(touched))
            rows = self._engine.placement.rows_of_device(table, device)
            touched[rows] = store.touched.since(number, device, first, end - first, epoch)
        return touched.nonzero()[:, 0]

    def _window(self, stack: StackLayout) -> int:
        """How many rows of a table are read or written at once."""
        numbers = sum(layout.record_width for layout in stack.arrays)
        return max(1, _WINDOW_BYTES // (4 * numbers))

    def _window_rows(self, stack: StackLayout, layout: ArrayLayout) -> int:
        """Physical rows that hold so many on each device, wherever in a row they begin."""
        records = ceil_div(self._window(stack), self._devices)
        return min(ceil_div(records, layout.records_per_row) + 1, layout.num_rows)

    def _records(
        self, stack: StackLayout, table: int, device: int, start: int, stop: int
    ) -> tuple[int, int]:
        """The records first … end-1 of a device that hold its rows among start … stop-1 of a table."""
        rows = range(stop)[self._engine.placement.rows_of_device(table, device)]
        before = len(range(start)[self._engine.placement.rows_of_device(table, device)])
        first = stack.first_records[stack.table_indices.index(table)]
        return first + before, first + len(rows)

    def _first_rows(
        self, stack: StackLayout, layout: ArrayLayout, table: int, start: int, stop: int
    ) -> list[int]:
        """The first physical row of the window on each device."""
        last = layout.num_rows - self._window_rows(stack, layout)
        firsts = [
            self._records(stack, table, device, start, stop)[0] for device in range(self._devices)
        ]
        return [min(first >> layout.shift, last) for first in firsts]

    def _pieces(
        self,
        stack: StackLayout,
        held: Sequence[Tensor | None],
        table: int,
        start: int,
        stop: int,
    ) -> list[tuple[str, slice, Tensor]]:
        """(field, which of the rows start … stop-1, where they lie in the windows), per device."""
        found = []
        for layout, windows in zip(stack.arrays, held, strict=True):
            if windows is None:
                continue
            of_device = windows.view(self._devices, -1, layout.record_width)
            first_rows = self._first_rows(stack, layout, table, start, stop)
            for device, first_row in enumerate(first_rows):
                first, end = self._records(stack, table, device, start, stop)
                offset = first_row * layout.records_per_row
                records = of_device[device, first - offset : end - offset]
                begin = (self._engine.placement.rows_of_device(table, device).start - start) % (
                    self._devices
                )
                there = slice(begin, None, self._devices)
                found += [(name, there, records[:, layout.lanes(name)]) for name in layout.fields]
        return found

    def _indices(self, number: int, at: int, first_rows: list[int]) -> Tensor:
        stack = self._engine.store.stacks[number]
        size = self._window_rows(stack, stack.arrays[at])
        rows = [torch.arange(first, first + size, dtype=torch.int32) for first in first_rows]
        return self._engine.exchange.put(torch.cat(rows))

    def _fetch(self, number: int, at: int, first_rows: list[int]) -> Tensor:
        exchange, array = self._engine.exchange, self._engine.store.arrays[number][at]
        rows = exchange.enter(self._indices(number, at, first_rows))
        return exchange.fetch(exchange.leave(exchange.enter(array).index_select(0, rows)))

    def _put(self, number: int, at: int, first_rows: list[int], window: Tensor | None) -> None:
        assert window is not None
        exchange, array = self._engine.exchange, self._engine.store.arrays[number][at]
        rows = exchange.enter(self._indices(number, at, first_rows))
        part = exchange.enter(array)
        part.index_copy_(0, rows.long(), exchange.enter(exchange.put(window)))
        exchange.store(array, part)
        del part, rows
        self._end_step()

    def _end_step(self) -> None:
        if runtime.is_accelerated(self._engine.store.arrays[0][0].device):
            runtime.sync()

"""Rows of a table to and from the device, a window of physical rows at a time.

A window has one size per array, so that reading and writing are one small program each, and nothing of a
table's size is ever on the host. Rows are those that this process holds, in the order of its ids.
Letters: P devices of a process, n rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import runtime
from ..distributed.exchange import Exchange
from ..distributed.placement import Placement, ceil_div
from ..runtime import host
from .layout import ArrayLayout, StackLayout
from .low_precision.lanes import lanes_of, numbers_of

_WINDOW_BYTES = 8 << 20
_FEWEST_ROWS = 64  # physical rows of the smallest window of `read_few` and `write_few`


@dataclass(frozen=True)
class _Scattered:
    """Where some rows of a table lie in an array, per device."""

    wanted: list[Tensor]
    """The positions, among the rows asked for, of those that the device has."""
    physical: list[Tensor]
    """The physical rows that hold them, rising."""
    positions: list[Tensor]
    """The position of each of them among the records of `physical`."""

    def most(self) -> int:
        """The most physical rows of any device."""
        return max(map(len, self.physical))


class Windows:
    """Reads and writes the arrays of one stack.

    Args:
        arrays: the stack's, on the device; written in place.
    """

    def __init__(
        self, stack: StackLayout, arrays: list[Tensor], placement: Placement, exchange: Exchange
    ) -> None:
        self._stack = stack
        self._arrays = arrays
        self._placement = placement
        self._exchange = exchange
        numbers = sum(layout.record_width for layout in stack.arrays)
        self.size = max(1, _WINDOW_BYTES // (4 * numbers))
        """The number of rows of a table that are read or written at once."""

    def read(self, table: int, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start … stop-1: field → CPU `[n, width]`, a copy."""
        self._end_step()
        out = {
            name: host.empty(stop - start, layout.numbers(name))
            for layout in self._stack.arrays
            for name in layout.fields
        }
        for begin, end in self._steps(start, stop):
            for number, layout in enumerate(self._stack.arrays):
                held = self._fetch(number, self._window(layout, table, begin, end))
                for name, there, lanes in self._pieces(layout, held, table, begin, end):
                    found = numbers_of(layout, name, lanes)
                    out[name][begin - start : end - start][there] = found
        return out

    def read_scattered(self, table: int, rows: Tensor) -> dict[str, Tensor]:
        """Some rows `[n]` (int64, rising) of a table: field → CPU `[n, width]`, a copy.

        A window holds any physical rows, so this runs the program of `read`, and reads no more windows
        than these rows fill.
        """
        self._end_step()
        out = {}
        for number, layout in enumerate(self._stack.arrays):
            for name in layout.fields:
                out[name] = host.empty(len(rows), layout.numbers(name))
            found = self._find(layout, table, rows)
            size = self._window_rows(layout)
            for start in range(0, found.most(), size):
                held = self._fetch(number, self._cut(found, start, size))
                for records, wanted, at in self._parts(layout, held, found, start, size):
                    for name in layout.fields:
                        lanes = records[at, layout.lanes(name)]
                        out[name][wanted] = numbers_of(layout, name, lanes)
        return out

    def read_few(self, table: int, rows: Tensor, field: str, most: int | None = None) -> Tensor:
        """One field of some rows `[n]` (int64, rising) of a table: CPU `[n, width]`, a copy.

        Hardly more is read than the physical rows that hold them: windows have padded sizes, and each size
        is a program.

        Args:
            most: None, or the most rows that any process reads in this call, if all shall run the same
                programs.
        """
        self._end_step()
        number = next(n for n, layout in enumerate(self._stack.arrays) if field in layout.fields)
        layout = self._stack.arrays[number]
        found = self._find(layout, table, rows)
        count = found.most() if most is None else most
        size = self._padded(layout, count)
        out = host.empty(len(rows), layout.numbers(field))
        for start in range(0, count, size):
            held = self._fetch(number, self._cut(found, start, size))
            for records, wanted, at in self._parts(layout, held, found, start, size):
                out[wanted] = numbers_of(layout, field, records[at, layout.lanes(field)])
        return out

    def write_few(
        self, table: int, rows: Tensor, values: dict[str, Tensor], most: int | None = None
    ) -> None:
        """Set some rows `[n]` (int64, rising) of a table; any subset of the fields.

        The physical rows that hold them travel to the host and back, in windows like those of `read_few`.
        """
        self._end_step()
        for number, layout in enumerate(self._stack.arrays):
            given = [name for name in layout.fields if name in values]
            if not given:
                continue
            found = self._find(layout, table, rows)
            count = found.most() if most is None else most
            size = self._padded(layout, count)
            for start in range(0, count, size):
                window = self._cut(found, start, size)
                held = self._fetch(number, window)
                for records, wanted, at in self._parts(layout, held, found, start, size):
                    for name in given:
                        lanes = lanes_of(layout, name, values[name][wanted])
                        records[at, layout.lanes(name)] = lanes
                self._repeat_last(held, found, start, size)
                self._put(number, window, held)

    def records_of(self, table: int, rows: Tensor) -> list[Tensor]:
        """The records of some rows of a table, per device."""
        devices = self._placement.local_devices
        first = self._stack.first_records[self._stack.table_indices.index(table)]
        begins = [self._placement.rows_of_device(table, device).start for device in range(devices)]
        return [first + rows[rows % devices == begin] // devices for begin in begins]

    def write(self, table: int, start: int, values: dict[str, Tensor]) -> None:
        """Set rows from `start` on; any subset of the fields."""
        self._end_step()
        stop = start + len(next(iter(values.values())))
        for begin, end in self._steps(start, stop):
            for number, layout in enumerate(self._stack.arrays):
                if not values.keys() & set(layout.fields):
                    continue
                window = self._window(layout, table, begin, end)
                held = self._fetch(number, window)
                for name, there, lanes in self._pieces(layout, held, table, begin, end):
                    if name in values:
                        given = values[name][begin - start : end - start][there]
                        lanes.copy_(lanes_of(layout, name, given))
                self._put(number, window, held)

    def records(self, table: int, device: int, start: int, stop: int) -> tuple[int, int]:
        """The records first … end-1 of a device that hold its rows among start … stop-1 of a table."""
        of_device = self._placement.rows_of_device(table, device)
        first = self._stack.first_records[self._stack.table_indices.index(table)]
        return first + len(range(start)[of_device]), first + len(range(stop)[of_device])

    def _find(self, layout: ArrayLayout, table: int, rows: Tensor) -> _Scattered:
        devices = self._placement.local_devices
        found = _Scattered([], [], [])
        for device, records in enumerate(self.records_of(table, rows)):
            begin = self._placement.rows_of_device(table, device).start
            found.wanted.append((rows % devices == begin).nonzero()[:, 0])
            physical, at = torch.unique_consecutive(records >> layout.shift, return_inverse=True)
            found.physical.append(physical)
            found.positions.append(at * layout.records_per_row + records % layout.records_per_row)
        return found

    def _cut(self, found: _Scattered, start: int, size: int) -> list[Tensor]:
        """The physical rows of a window on each device; the last one again, or row 0, fills it up."""
        window = []
        for physical in found.physical:
            part = physical[start : start + size]
            last = part[-1:] if len(part) else part.new_zeros(1)
            window.append(torch.cat([part, last.expand(size - len(part))]))
        return window

    def _parts(
        self, layout: ArrayLayout, held: Tensor, found: _Scattered, start: int, size: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each device: the records of a window `[m, record_width]`, the positions of those among the
        rows asked for, and their positions in the window."""
        devices = self._placement.local_devices
        of_device = held.view(devices, -1, layout.record_width)
        begin, end = (layout.records_per_row * row for row in (start, start + size))
        for device, positions in enumerate(found.positions):
            here = (positions >= begin) & (positions < end)
            yield of_device[device], found.wanted[device][here], positions[here] - begin

    def _repeat_last(self, held: Tensor, found: _Scattered, start: int, size: int) -> None:
        """Give the rows that fill a window up what the row that they repeat has now."""
        of_device = held.view(self._placement.local_devices, size, -1)
        for device, physical in enumerate(found.physical):
            used = len(physical[start : start + size])
            if used:
                of_device[device, used:] = of_device[device, used - 1].clone()

    def _padded(self, layout: ArrayLayout, count: int) -> int:
        """Physical rows of a window for `count` of them, or for a part of them."""
        power = 1 << max(count - 1, 0).bit_length()
        return min(max(power, _FEWEST_ROWS), self._window_rows(layout))

    def _steps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return ((at, min(at + self.size, stop)) for at in range(start, stop, self.size))

    def _window_rows(self, layout: ArrayLayout) -> int:
        """Physical rows that hold a window on each device, wherever in a row it begins."""
        records = ceil_div(self.size, self._placement.local_devices)
        return min(ceil_div(records, layout.records_per_row) + 1, layout.num_rows)

    def _first_rows(self, layout: ArrayLayout, table: int, start: int, stop: int) -> list[int]:
        """The first physical row of the window on each device."""
        last = layout.num_rows - self._window_rows(layout)
        devices = range(self._placement.local_devices)
        firsts = [self.records(table, device, start, stop)[0] for device in devices]
        return [min(first >> layout.shift, last) for first in firsts]

    def _window(self, layout: ArrayLayout, table: int, start: int, stop: int) -> list[Tensor]:
        """The physical rows of the window on each device."""
        size = self._window_rows(layout)
        return [
            host.arange(first, first + size)
            for first in self._first_rows(layout, table, start, stop)
        ]

    def _pieces(
        self, layout: ArrayLayout, held: Tensor, table: int, start: int, stop: int
    ) -> Iterator[tuple[str, slice, Tensor]]:
        """(field, which of the rows start … stop-1, where they lie in the window), per device."""
        devices = self._placement.local_devices
        of_device = held.view(devices, -1, layout.record_width)
        for device, first_row in enumerate(self._first_rows(layout, table, start, stop)):
            first, end = self.records(table, device, start, stop)
            offset = first_row * layout.records_per_row
            records = of_device[device, first - offset : end - offset]
            begin = (self._placement.rows_of_device(table, device).start - start) % devices
            for name in layout.fields:
                yield name, slice(begin, None, devices), records[:, layout.lanes(name)]

    def _indices(self, number: int, physical: Sequence[Tensor]) -> Tensor:
        """Rows of an array, on the device, of physical rows per device."""
        parts, rows = self._stack.arrays[number].parts, torch.cat([*physical])
        if parts > 1:
            rows = (parts * rows[:, None] + host.arange(parts)).reshape(-1)
        return self._exchange.enter(self._exchange.put(rows.int()))

    def _fetch(self, number: int, physical: Sequence[Tensor]) -> Tensor:
        part = self._exchange.enter(self._arrays[number])
        rows = part.index_select(0, self._indices(number, physical))
        return self._exchange.fetch(self._exchange.leave(rows))

    def _put(self, number: int, physical: Sequence[Tensor], window: Tensor) -> None:
        array = self._arrays[number]
        part = self._exchange.enter(array)
        rows = self._indices(number, physical).long()
        part.index_copy_(0, rows, self._exchange.enter(self._exchange.put(window)))
        self._exchange.store(array, part)
        del part, rows  # a part that lives at the end of a program would be an output of it
        self._end_step()

    def _end_step(self) -> None:
        if runtime.is_accelerated(self._arrays[0].device):
            runtime.sync()

"""The tables as they lie on the device, and the way between them and logical tensors.

Physical: a list of arrays per stack, of all devices of this process one after another. Logical: per table
and field a tensor `[n, width]` of the rows that this process holds, in the order of `ids(table)`; alone,
row i is id i. Letters: P devices of a process, n rows.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

import torch
from torch import Tensor

from .. import runtime
from ..config.resolved import Resolved, field_shape
from ..distributed.exchange import Exchange, Local
from ..distributed.placement import Placement
from ..runtime import host
from ..runtime.modes import for_tables
from .access.scoring import Scorer
from .delta_tracker import DeltaTracker
from .layout import ArrayLayout, StackLayout, build_stacks
from .low_precision.lanes import lanes_of, numbers_of
from .row_windows import Windows

Fields = dict[str, Tensor]
RowBlock = tuple[int, Fields]
"""The first row of some rows of a table, and their values."""

_STAGED_BYTES = 64 << 20

# Sizes of all live arrays of the process, for no two in one program may be alike (see layout.py).
_live_sizes: Counter[int] = Counter()


class TableStore:
    """All physical arrays of one embedding in this process."""

    def __init__(
        self,
        resolved: Resolved,
        device: torch.device,
        kind: runtime.DeviceKind,
        placement: Placement | None = None,
        exchange: Exchange | None = None,
        row_kernels: bool = False,
    ) -> None:
        placement = placement or Placement()
        self._resolved = resolved
        self._placement = placement
        self._exchange = exchange or Local(device)
        self.stacks = build_stacks(resolved.tables, kind, +_live_sizes, placement, row_kernels)
        sizes = [array.num_elements for stack in self.stacks for array in stack.arrays]
        _live_sizes.update(sizes)
        weakref.finalize(self, _live_sizes.subtract, sizes)
        self.arrays: list[list[Tensor]] = []
        self._windows: list[Windows] = []
        self._stack_of = {
            table: number
            for number, stack in enumerate(self.stacks)
            for table in stack.table_indices
        }
        self.delta_tracker = DeltaTracker(self.stacks, placement.local_devices)
        self.version = 0
        """Rises whenever rows change, by an update or by a load."""
        self.loads = 0
        """Rises whenever rows are written from outside."""
        self.updates = 0
        """The number of updates; the step on which the random bits of rounding depend."""

    def ids(self, table: int) -> range:
        """The ids of a table whose rows this process holds, in order."""
        return self._placement.ids(table, self._resolved.tables[table].vocabulary_size)

    def field_shape(self, table: int, name: str) -> tuple[int, int]:
        """`[n, width]` of a field of a table, of the rows held here."""
        width = field_shape(self._resolved.tables[table], name)[1]
        return len(self.ids(table)), width

    @for_tables
    def fill(self, blocks_of: Callable[[int], Iterable[RowBlock]]) -> None:
        """Write the arrays from logical values; `blocks_of(t)` gives those of table t, block by block."""
        self.arrays, self._windows = [], []
        for stack in self.stacks:
            staged = self._is_small(stack)
            if staged:
                on_host = self._blank(stack)
                for table in stack.table_indices:
                    for start, values in blocks_of(table):
                        self._write(stack, on_host, table, start, values)
                arrays = [self._exchange.put(array) for array in on_host]
            else:
                arrays = [self._exchange.zeros(array.shape, array.dtype) for array in stack.arrays]
            windows = Windows(stack, arrays, self._placement, self._exchange)
            for table in () if staged else stack.table_indices:
                for start, values in blocks_of(table):
                    windows.write(table, start, values)
            self.arrays.append(arrays)
            self._windows.append(windows)
        self.delta_tracker.note_all_changed()

    @for_tables
    def replace(self, values: dict[int, Fields]) -> None:
        """Overwrite the given fields of the given tables; the others keep their values."""
        for number, stack in enumerate(self.stacks):
            given = {table: values[table] for table in stack.table_indices if values.get(table)}
            if not given:
                continue
            if not self._is_small(stack):
                for table, fields in given.items():
                    self._windows[number].write(table, 0, fields)
                continue
            on_host = self._retrieve(number)
            for table, fields in given.items():
                self._write(stack, on_host, table, 0, fields)
            self.arrays[number][:] = [self._exchange.put(array) for array in on_host]
        self.delta_tracker.note_all_changed()
        self._loaded()

    @for_tables
    def read(self) -> dict[int, Fields]:
        """The present rows of all tables: table → field → CPU tensor, a copy."""
        found: dict[int, Fields] = {}
        for number, stack in enumerate(self.stacks):
            small = self._is_small(stack)
            on_host = self._retrieve(number) if small else []
            for table in stack.table_indices:
                rows = len(self.ids(table))
                if not small:
                    found[table] = self._windows[number].read(table, 0, rows)
                    continue
                found[table] = {
                    name: host.empty(*self.field_shape(table, name)) for name in stack.fields
                }
                for layout, name, there, lanes in self._pieces(stack, on_host, table, 0, rows):
                    found[table][name][there].copy_(numbers_of(layout, name, lanes))
        return found

    @property
    def num_arrays(self) -> int:
        """The number of arrays of all stacks."""
        return sum(len(of_stack) for of_stack in self.arrays)

    @for_tables
    def read_rows(self, table: int, start: int, stop: int) -> Fields:
        """The rows start … stop-1 of a table: field → CPU `[n, width]`, a copy."""
        return self._windows[self._stack_of[table]].read(table, start, stop)

    @for_tables
    def read_scattered(self, table: int, rows: Tensor) -> Fields:
        """Some rows `[n]` (int64, rising) of a table: field → CPU `[n, width]`, a copy."""
        return self._windows[self._stack_of[table]].read_scattered(table, rows)

    @for_tables
    def write_rows(self, table: int, start: int, values: Fields) -> None:
        """Set the rows of a table from `start` on; any subset of the fields."""
        number = self._stack_of[table]
        windows = self._windows[number]
        windows.write(table, start, values)
        stop = start + len(next(iter(values.values())))
        devices = range(self._placement.local_devices)
        written = [host.arange(*windows.records(table, d, start, stop)) for d in devices]
        self.delta_tracker.note_changed(number, written)
        self._loaded()

    @for_tables
    def read_few(self, table: int, rows: Tensor, field: str, most: int | None = None) -> Tensor:
        """One field of some rows `[n]` (int64, rising) of a table: CPU `[n, width]`, a copy; see
        `Windows.read_few`."""
        return self._windows[self._stack_of[table]].read_few(table, rows, field, most)

    @for_tables
    def write_few(self, table: int, rows: Tensor, values: Fields, most: int | None = None) -> None:
        """Set some rows `[n]` (int64, rising) of a table; any subset of the fields."""
        number = self._stack_of[table]
        self._windows[number].write_few(table, rows, values, most)
        self.delta_tracker.note_changed(number, self._windows[number].records_of(table, rows))
        self._loaded()

    def scorer(self, table: int) -> Scorer:
        """A search among the rows of a table that this process holds."""
        number = self._stack_of[table]
        stack, array = self.stacks[number], self.arrays[number][0]
        return Scorer(stack, array, table, self._placement, self._exchange)

    def changed_since(self, table: int, mark: int) -> Tensor:
        """The rows `[n]` (int64, rising) of a table that changed since the delta mark was set."""
        number = self._stack_of[table]
        changed = torch.zeros(len(self.ids(table)), dtype=torch.bool, device="cpu")
        for device in range(self._placement.local_devices):
            first, end = self._windows[number].records(table, device, 0, len(changed))
            rows = self._placement.rows_of_device(table, device)
            changed[rows] = self.delta_tracker.changed_since(
                number, device, first, end - first, mark
            )
        return changed.nonzero()[:, 0]

    def note_update(
        self, records: Sequence[Sequence[Tensor]], frozen: Set[int], version: int
    ) -> None:
        """Take note of an update that made this version of the tables. Twice does no harm.

        Args:
            records: those updated, per stack and device of this process.
            frozen: tables that stayed as they are.
        """
        for number, of_stack in enumerate(records):
            self.delta_tracker.note_changed(number, of_stack, frozen)
        if version != self.version:
            self.updates += 1
        self.version = version

    def _loaded(self) -> None:
        """Rows were written from outside: what was read before is out of date."""
        self.version += 1
        self.loads += 1

    def _is_small(self, stack: StackLayout) -> bool:
        """True if the whole stack may pass through the host at once, which is faster for many small
        tables."""
        numbers = sum(array.num_elements for array in stack.arrays)
        return 4 * numbers * self._placement.local_devices <= _STAGED_BYTES

    def _blank(self, stack: StackLayout) -> list[Tensor]:
        devices = self._placement.local_devices
        return [
            torch.zeros(devices * array.shape[0], *array.shape[1:], dtype=array.dtype, device="cpu")
            for array in stack.arrays
        ]

    def _retrieve(self, number: int) -> list[Tensor]:
        return [self._exchange.fetch(array) for array in self.arrays[number]]

    def _write(
        self, stack: StackLayout, on_host: list[Tensor], table: int, start: int, values: Fields
    ) -> None:
        """Write rows of a table from `start` on into host copies of the arrays."""
        if not values:
            return
        stop = start + len(next(iter(values.values())))
        for layout, name, there, lanes in self._pieces(stack, on_host, table, start, stop):
            if name in values:
                lanes.copy_(lanes_of(layout, name, values[name][there]))

    def _pieces(
        self, stack: StackLayout, on_host: list[Tensor], table: int, start: int, stop: int
    ) -> Iterator[tuple[ArrayLayout, str, slice, Tensor]]:
        """Find the rows start … stop - 1 of a table in host copies of the arrays.

        Yields for each device and field: the layout of its array, the field, the slice of these rows that
        the device has, and a view of the host copies `[n, width]`: the lanes in which they lie.
        """
        first = stack.first_records[stack.table_indices.index(table)]
        devices = self._placement.local_devices
        for layout, array in zip(stack.arrays, on_host, strict=True):
            of_device = array.view(devices, -1, layout.record_width)
            for device in range(devices):
                begin = (self._placement.rows_of_device(table, device).start - start) % devices
                there = slice(begin, stop - start, devices)
                count = len(range(stop - start)[there])
                if count == 0:
                    continue
                record = first + (start + begin) // devices
                records = of_device[device, record : record + count]
                for name in layout.fields:
                    yield layout, name, there, records[:, layout.lanes(name)]

"""The rows that have changed since a delta mark: a delta checkpoint writes only these.

Letters: L devices of this process, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor

from ..runtime.modes import for_tables
from .layout import StackLayout


class DeltaTracker:
    """The newest delta mark before each record's last change. It costs nothing until `set_mark` is first
    called, then 4 bytes a record on the host."""

    def __init__(self, stacks: Sequence[StackLayout], local_devices: int) -> None:
        self._stacks = stacks
        self._devices = local_devices
        self._mark = 0
        self._last: list[Tensor] = []

    @for_tables
    def set_mark(self) -> int:
        """Set a delta mark: later changes count as changes since it. Gives its number."""
        if not self._last:
            self._last = [
                torch.zeros(self._devices, stack.num_records + 1, dtype=torch.int32, device="cpu")
                for stack in self._stacks
            ]
        self._mark += 1
        return self._mark

    def note_changed(
        self, stack: int, records: Sequence[Tensor], frozen: Set[int] = frozenset()
    ) -> None:
        """Note the records `[U]` that a step has updated, per device, but for those of frozen tables."""
        if not self._last:
            return
        layout = self._stacks[stack]
        spans = [layout.span(table) for table in layout.table_indices if table in frozen]
        if layout.rule is not None and layout.rule.moves_all_rows:
            kept = [self._last[stack][:, first:end].clone() for first, end in spans]
            self._last[stack].fill_(self._mark)
            for (first, end), marks in zip(spans, kept, strict=True):
                self._last[stack][:, first:end] = marks
            return
        for device, of_device in enumerate(records):
            for first, end in spans:
                of_device = of_device[(of_device < first) | (of_device >= end)]
            self._last[stack][device].index_fill_(0, of_device.long(), self._mark)

    def note_all_changed(self) -> None:
        """Note that every row was written."""
        for last in self._last:
            last.fill_(self._mark)

    def changed_since(self, stack: int, device: int, first: int, count: int, mark: int) -> Tensor:
        """`[count]` bool: which of some records of a device changed since `mark` was set."""
        return self._last[stack][device, first : first + count] >= mark

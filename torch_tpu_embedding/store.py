"""The tables as they lie on the device, and the way between them and logical tensors.

Physical: a list of arrays per stack. Logical: per table and field a tensor `[V, D]` whose row i is id i.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from . import runtime
from .config import Resolved
from .layout import ArrayLayout, StackLayout, build_stacks

Fields = dict[str, Tensor]

# Sizes of all live arrays of the process, for no two in one program may be alike (see layout.py).
_live_sizes: Counter[int] = Counter()


class TableStore:
    """All physical arrays of one embedding."""

    def __init__(self, resolved: Resolved, device: torch.device, kind: runtime.DeviceKind) -> None:
        self._resolved = resolved
        self._device = device
        self.stacks = build_stacks(resolved.tables, kind, taken_sizes=+_live_sizes)
        sizes = [array.num_elements for stack in self.stacks for array in stack.arrays]
        _live_sizes.update(sizes)
        weakref.finalize(self, _live_sizes.subtract, sizes)
        self.arrays: list[list[Tensor]] = []

    def fill(self, values_of: Callable[[int], Fields]) -> None:
        """Write the arrays from logical values; `values_of(t)` gives those of table t."""
        self.arrays = [self._upload(stack, _blank(stack), values_of) for stack in self.stacks]

    def replace(self, values: dict[int, Fields]) -> None:
        """Overwrite the given fields of the given tables; the others keep their values."""
        for number, stack in enumerate(self.stacks):
            given = [set(values.get(table, ())) for table in stack.table_indices]
            if any(given):
                full = all(fields == set(stack.fields) for fields in given)
                held = _blank(stack) if full else self._retrieve(number)
                self.arrays[number] = self._upload(stack, held, lambda t: values.get(t, {}))

    def read(self) -> dict[int, Fields]:
        """What the device holds now: table → field → CPU tensor `[V, D]`, sharing no memory with it."""
        found: dict[int, Fields] = {}
        for number, stack in enumerate(self.stacks):
            held = self._retrieve(number)
            for table in stack.table_indices:
                found[table] = {
                    name: _view(stack, layout, array, table, self._resolved, name).clone()
                    for layout, array in zip(stack.arrays, held, strict=True)
                    for name in layout.fields
                }
        return found

    def _retrieve(self, number: int) -> list[Tensor]:
        return [array.cpu() for array in self.arrays[number]]

    def _upload(
        self, stack: StackLayout, held: list[Tensor], values_of: Callable[[int], Fields]
    ) -> list[Tensor]:
        """Write the values of one stack's tables into host arrays, and these to the device."""
        for table in stack.table_indices:
            values = values_of(table)
            for layout, array in zip(stack.arrays, held, strict=True):
                for name in values.keys() & set(layout.fields):
                    _view(stack, layout, array, table, self._resolved, name).copy_(values[name])
        return [array.to(self._device) for array in held]


def _blank(stack: StackLayout) -> list[Tensor]:
    return [torch.zeros(array.shape) for array in stack.arrays]


def _view(
    stack: StackLayout,
    layout: ArrayLayout,
    array: Tensor,
    table: int,
    resolved: Resolved,
    name: str,
) -> Tensor:
    """One field of one table inside a host copy of an array, `[V, width]`, without copying."""
    first = stack.first_records[stack.table_indices.index(table)]
    records = array.view(-1, layout.record_width)
    rows = resolved.tables[table].vocabulary_size
    return records[first : first + rows, layout.lanes(name)]

"""The tables as they lie on the device, and the way between them and logical tensors.

Physical: a list of arrays per stack. Logical: per table and field a tensor `[V, D]` whose row i is id i.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Container

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
        self._upload(self._blank(), values_of, range(len(self._resolved.tables)))

    def replace(self, values: dict[int, Fields]) -> None:
        """Overwrite the given fields of the given tables; the others keep their values."""
        full = all(
            set(values.get(table, ())) == set(stack.fields)
            for stack in self.stacks
            for table in stack.table_indices
        )
        self._upload(self._blank() if full else self._retrieve(), values.__getitem__, values)

    def read(self) -> dict[int, Fields]:
        """What the device holds now: table → field → CPU tensor `[V, D]`, sharing no memory with it."""
        held = self._retrieve()
        return {
            table: {
                name: _view(stack, layout, array, table, self._resolved, name).clone()
                for layout, array in zip(stack.arrays, arrays, strict=True)
                for name in layout.fields
            }
            for stack, arrays in zip(self.stacks, held, strict=True)
            for table in stack.table_indices
        }

    def _blank(self) -> list[list[Tensor]]:
        return [[torch.zeros(array.shape) for array in stack.arrays] for stack in self.stacks]

    def _retrieve(self) -> list[list[Tensor]]:
        return [[array.cpu() for array in arrays] for arrays in self.arrays]

    def _upload(
        self, held: list[list[Tensor]], values_of: Callable[[int], Fields], tables: Container[int]
    ) -> None:
        for stack, arrays in zip(self.stacks, held, strict=True):
            for table in stack.table_indices:
                if table not in tables:
                    continue
                values = values_of(table)
                for layout, array in zip(stack.arrays, arrays, strict=True):
                    for name in layout.fields:
                        if name in values:
                            view = _view(stack, layout, array, table, self._resolved, name)
                            view.copy_(values[name])
        self.arrays = [[array.to(self._device) for array in arrays] for arrays in held]


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

"""The update of optimizers that move every row at every step (non-lazy Adam).

It reads and writes the whole table by definition; everything else in the package is there to avoid that.
Letters: U unique rows, V vocabulary, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..config.resolved import WEIGHT
from ..tables.layout import StackLayout
from .frozen_rows import moves
from .records import join_lanes
from .stack_index import StackIndex


def apply_to_all_rows(
    arrays: list[Tensor], index: StackIndex, gradient: Tensor, rates: Tensor
) -> None:
    """Give each record of a stack one optimizer step, those not looked up with a zero gradient.

    Arguments as for `update.apply_stack`.
    """
    stack = index.shape.order.stack
    assert stack.rule is not None
    count = stack.num_records
    sums = torch.where(index.valid, gradient, 0.0)
    dense = torch.zeros(count + 1, stack.dim, dtype=sums.dtype, device=sums.device)
    dense = dense.index_add(0, index.ints.record, sums)[:count]
    values = {  # the fields of a record follow each other in memory, in rows of their own too
        name: array.view(-1, layout.record_width)[:count, layout.lanes(name)]
        for layout, array in zip(stack.arrays, arrays, strict=True)
        for name in layout.fields
    }
    weights = values.pop(WEIGHT)
    rate = _rates_of_all(rates, stack)
    change, slot_changes = stack.rule.step(weights, values, dense, rate)
    changes = {WEIGHT: change, **slot_changes}
    moved = moves(rate)
    changes = {name: torch.where(moved, change, -0.0) for name, change in changes.items()}
    for layout, array in zip(stack.arrays, arrays, strict=True):
        missing = layout.num_elements // layout.record_width - count
        array.add_(pad(join_lanes(layout, changes), (0, 0, 0, missing)).view(array.shape))


def _rates_of_all(rates: Tensor, stack: StackLayout) -> Tensor:
    """The learning rate of every record `[V of the stack, 1]`, or `[1]` where all are of one table."""
    if len(rates) == 1:
        return rates
    # torch_xla would compute an arange on the host and make it a constant of the program.
    ends = [*stack.first_records[1:], stack.num_records]
    sizes = [end - first for first, end in zip(stack.first_records, ends, strict=True)]
    parts = [rates.narrow(0, table, 1).expand(size) for table, size in enumerate(sizes)]
    return torch.cat(parts)[:, None]

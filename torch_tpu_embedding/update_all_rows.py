"""The update of optimizers that move every row at every step (non-lazy Adam).

It reads and writes the whole table by definition; everything else in the package is there to avoid that.
Letters: U unique rows, V vocabulary, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .layout import WEIGHT
from .lookup import StackIndex
from .update import join_lanes, rates_of, read_fields


def apply_to_all_rows(
    arrays: list[Tensor], index: StackIndex, gradient: Tensor, rates: Tensor
) -> None:
    """Give each record of a stack one optimizer step, those not looked up with a zero gradient.

    Arguments as for `update.apply_stack`.
    """
    stack = index.sizes.plan.stack
    assert stack.rule is not None
    count = stack.num_records
    sums = torch.where(index.valid, gradient, 0.0)
    dense = torch.zeros(count + 1, stack.dim, dtype=sums.dtype, device=sums.device)
    dense = dense.index_add_(0, index.record, sums)[:count]
    records = [
        array.view(-1, layout.record_width)[:count]
        for layout, array in zip(stack.arrays, arrays, strict=True)
    ]
    values = read_fields(stack.arrays, records)
    weights = values.pop(WEIGHT)
    rate = rates_of(rates, _tables(stack.first_records, count, rates.device))
    change, slot_changes = stack.rule.step(weights, values, dense, rate)
    changes = {WEIGHT: change, **slot_changes}
    for layout, array in zip(stack.arrays, arrays, strict=True):
        missing = layout.num_elements // layout.record_width - count
        array.add_(pad(join_lanes(layout, changes), (0, 0, 0, missing)).view(array.shape))


def _tables(first_records: tuple[int, ...], count: int, device: torch.device) -> Tensor:
    """Which of the stack's tables each record is of, `[V of the stack]`."""
    record = torch.arange(count, dtype=torch.int32, device=device)
    return sum(((record >= first).to(torch.int32) for first in first_records[1:]), record * 0)

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
from .update import record_gradients


def apply_to_all_rows(
    arrays: list[Tensor], index: StackIndex, gradients: list[Tensor], rates: Tensor
) -> None:
    """Give each record of a stack one optimizer step, those not looked up with a zero gradient.

    Arguments as for `update.apply_stack`.
    """
    stack = index.sizes.plan.stack
    assert stack.rule is not None
    count = stack.num_records
    sums = record_gradients(index, gradients)
    valid = torch.arange(len(sums), device=sums.device) < index.num_valid
    sums = torch.where(valid[:, None], sums, 0.0)
    dense = torch.zeros(count + 1, stack.dim, dtype=sums.dtype, device=sums.device)
    dense = dense.index_add_(0, index.record, sums)[:count]
    values = {
        name: array.view(-1, layout.record_width)[:count, layout.lanes(name)]
        for layout, array in zip(stack.arrays, arrays, strict=True)
        for name in layout.fields
    }
    weights = values.pop(WEIGHT)
    changes: dict[str, Tensor] = {}
    rate = _rates_by_record(stack.first_records, count, rates)
    changes[WEIGHT], slot_changes = stack.rule.step(weights, values, dense, rate)
    changes.update(slot_changes)
    for layout, array in zip(stack.arrays, arrays, strict=True):
        parts = [changes[name] for name in layout.fields]
        change = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        records = layout.num_elements // layout.record_width
        missing = (0, layout.record_width - change.shape[1], 0, records - count)
        array.add_(pad(change, missing).view(array.shape))


def _rates_by_record(first_records: tuple[int, ...], count: int, rates: Tensor) -> Tensor:
    """The learning rate of each record's table, `[V of the stack, 1]`, or `[1]` if there is one table."""
    if len(first_records) == 1:
        return rates
    record = torch.arange(count, dtype=torch.int32, device=rates.device)
    table = sum(((record >= first).to(torch.int32) for first in first_records[1:]), record * 0)
    return rates.index_select(0, table)[:, None]

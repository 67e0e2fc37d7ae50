"""The update without gradient accumulation: one optimizer step per occurrence of an id.

Letters: N lookups, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.occurrences import RoundBatch
from ..config.resolved import WEIGHT
from ..runtime.slices import cut
from ..tables.layout import StackLayout
from .frozen_rows import spare_frozen
from .records import gather_records, read_fields, write_changes
from .update import rates_of


def apply_round_batch(
    arrays: list[Tensor],
    stack: StackLayout,
    round_batch: RoundBatch,
    ints: Tensor,
    gradients: Tensor,
    rates: Tensor,
) -> None:
    """Apply the occurrences of one round batch, in order.

    Args:
        arrays: the stack's physical arrays; changed.
        ints: one device's part of `round_batch.ints`, on the device.
        gradients: of each lookup of the batch, `[N, D]`.
        rates: learning rate of each table of the stack.
    """
    assert stack.rule is not None
    record, table, *lookups = cut(ints, [round_batch.rows] * (2 + round_batch.rounds))
    rate = rates_of(rates, table)
    held = [
        gather_records(layout, array, record)
        for layout, array in zip(stack.arrays, arrays, strict=True)
    ]
    before = read_fields(stack.arrays, held)
    now = dict(before)
    for lookup in lookups:
        gradient = gradients.index_select(0, lookup.clamp(min=0))
        slots = {name: value for name, value in now.items() if name != WEIGHT}
        change, slot_changes = stack.rule.step(now[WEIGHT], slots, gradient, rate)
        there = (lookup >= 0)[:, None]
        for name, delta in {WEIGHT: change, **slot_changes}.items():
            now[name] = torch.where(there, now[name] + delta, now[name])
    changes = {name: now[name] - before[name] for name in now}
    valid = (lookups[0] >= 0)[:, None]
    record, valid = spare_frozen(record, valid, rate, stack.padding_record)
    write_changes(arrays, stack.arrays, record, changes, valid)

"""The backward program: one gradient per unique record, one optimizer step, one scatter-add per array.

Letters: N lookups, U unique rows, D dim, G devices of all.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from ..config.resolved import WEIGHT
from ..runtime.slices import join
from .frozen_rows import spare_frozen
from .records import (
    gather_records,
    read_fields,
    write_changes,
)
from .stack_index import StackIndex


def lookup_gradients(index: StackIndex, gradients: list[Tensor]) -> list[Tensor]:
    """The gradient of each lookup, in tensors `[…, D]` like those of `index.lookup_rows`.

    Args:
        gradients: one per span of the stack, shaped like its activations.
    """
    order = index.shape.order
    flat = [each if each.dim() == 2 else each.reshape(-1, each.shape[-1]) for each in gradients]
    rest = iter(flat)
    found = [join(list(islice(rest, len(fused)))) for fused in order.fused_one_hot]
    for fused, gain in zip(order.fused_fixed_length, index.fixed_length_gains, strict=True):
        of_bags = join(list(islice(rest, len(fused))))
        of_lookups = of_bags.expand(fused[0].form.length, *of_bags.shape)
        found.append(of_lookups.reshape(-1, order.stack.dim) * gain)
    if order.num_bags:
        found.append(
            join(list(rest)).index_select(0, index.ints.bag) * index.floats.ragged_gain[:, None]
        )
    return found


def row_gradients(index: StackIndex, gradients: list[Tensor]) -> Tensor:
    """Sum the gradients of all lookups of each row that this device has used.

    Args:
        gradients: one per span of the stack, shaped like its activations.

    Returns:
        `[U, D]`, or `[num_positions, D]` where rows are exchanged.
    """
    shape = index.shape
    count = shape.num_positions or shape.num_unique
    sums = torch.zeros(
        count, shape.order.stack.dim, dtype=torch.float32, device=index.ints.record.device
    )
    # A scatter for each large feature: to join their gradients first would copy them all. Not in place:
    # torch_xla traces that through a decomposition in Python, for three times as long, to the same program.
    for rows, gradient in zip(index.lookup_rows, lookup_gradients(index, gradients), strict=True):
        sums = sums.index_add(0, rows, gradient)
    return sums


def received_gradients(index: StackIndex, buffer: Tensor) -> Tensor:
    """Sum the gradients that all devices sent for each unique record of this one, `[U, D]`.

    Args:
        buffer: the exchange buffer that arrived, `[G, positions_per_device, D]`.
    """
    dim = buffer.shape[-1]
    sums = torch.zeros(index.shape.num_unique, dim, dtype=buffer.dtype, device=buffer.device)
    return sums.index_add(0, index.ints.incoming, buffer.view(-1, dim))


def after(gradient: Tensor, read: Tensor) -> Tensor:
    """The gradient, made to depend on `read`, so that an update with it comes after that lookup."""
    number = read.reshape(-1)[:1]
    # Never true, not for nan either, but nothing a compiler could leave out.
    return torch.where(number.abs().clamp(min=1.0) < 0.5, 0.0, gradient)


def apply_stack(
    arrays: list[Tensor],
    index: StackIndex,
    weight_records: Tensor,
    gradient: Tensor,
    rates: Tensor,
) -> None:
    """Update the looked-up records of one stack in place.

    Args:
        arrays: the stack's physical arrays; changed.
        index: this stack's part of the batch.
        weight_records: the records that `gather_records` read of `arrays[0]`, unchanged since.
        gradient: of each unique record, `[U, D]`.
        rates: learning rate of each table of the stack, `[tables]`; FROZEN for one that stays as it is.
    """
    stack = index.shape.order.stack
    assert stack.rule is not None
    records = [weight_records]
    records += [
        gather_records(layout, array, index.ints.record)
        for layout, array in zip(stack.arrays[1:], arrays[1:], strict=True)
    ]
    values = read_fields(stack.arrays, records)
    weights = values.pop(WEIGHT)
    rate = rates_of(rates, index.ints.table)
    change, slot_changes = stack.rule.step(weights, values, gradient, rate)
    if stack.update_must_read:
        # Of no effect: nan plus anything is nan. But nothing a compiler could leave out.
        change = torch.where(weights != weights, weights, change)
    changes = {WEIGHT: change, **slot_changes}
    record, valid = spare_frozen(index.ints.record, index.valid, rate, stack.padding_record)
    write_changes(arrays, stack.arrays, record, changes, valid)


def rates_of(rates: Tensor, table: Tensor) -> Tensor:
    """The learning rate of each record `[U, 1]`, or `[1]` where all records are of one table.

    Args:
        rates: of the stack's tables. table: `[U]`, the table of each record, counted in the stack.
    """
    return rates if len(rates) == 1 else rates.index_select(0, table)[:, None]

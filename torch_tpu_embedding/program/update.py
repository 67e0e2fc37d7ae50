"""The backward program: one gradient per unique record, one optimizer step, one scatter-add per array.

Two rare updates stand beside the usual one: of optimizers that step once per occurrence of an id, round by
round, and of those that move every row at every step (non-lazy Adam). The latter reads and writes the whole
table by definition; everything else in the package is there to avoid that.
Letters: N lookups, U unique rows, V vocabulary, D dim, G devices of all.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..batch.occurrences import RoundBatch
from ..config.resolved import WEIGHT
from ..kernels.sum_rows import sum_rows
from ..runtime.slices import cut, join
from ..tables.layout import ArrayLayout, StackLayout
from ..tables.low_precision.lanes import lanes_of, packed
from ..tables.low_precision.rounding import random_bits, rounded_bits
from .frozen_rows import moves, spare_frozen
from .records import (
    gather_records,
    join_lanes,
    kernel_writes,
    read_fields,
    replace_packed,
    replace_records,
    write_changes,
)
from .stack_index import StackIndex


def lookup_gradients(index: StackIndex, gradients: list[Tensor]) -> list[Tensor]:
    """The gradient of each lookup, in tensors `[…, D]` like those of `index.lookup_rows`.

    Args:
        gradients: one per span of the stack, shaped like its activations.
    """
    order = index.shape.order
    rest = iter(_flat(gradients))
    found = [join(list(islice(rest, len(fused)))) for fused in order.fused_one_hot]
    for fused, gain in zip(order.fused_fixed_length, index.fixed_length_gains, strict=True):
        of_bags = join(list(islice(rest, len(fused))))
        of_lookups = of_bags.expand(fused[0].form.length, *of_bags.shape)
        found.append(of_lookups.reshape(-1, order.stack.dim) * gain)
    if order.num_bags:
        found.append(join(list(rest)).index_select(0, index.ints.bag) * index.ragged_gains)
    return found


def _flat(gradients: list[Tensor]) -> list[Tensor]:
    return [each if each.dim() == 2 else each.reshape(-1, each.shape[-1]) for each in gradients]


def row_gradients(index: StackIndex, gradients: list[Tensor]) -> Tensor:
    """Sum the gradients of all lookups of each row that this device has used.

    Args:
        gradients: one per span of the stack, shaped like its activations.

    Returns:
        `[U, D]`, or `[num_positions, D]` where rows are exchanged.
    """
    shape, ints = index.shape, index.ints
    count = shape.num_positions or shape.num_unique
    if index.sums_by_kernel:
        taken = (join(_flat(gradients)), ints.bag, ints.to_ragged, index.ragged_gains)
        return sum_rows(*taken, count, by_kernel=True)
    size = (count, shape.order.stack.dim)
    # Not `zeros`, which is traced as two operators.
    sums = torch.full(size, 0.0, dtype=torch.float32, device=ints.record.device)
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
    keys: Tensor | None = None,
) -> None:
    """Update the looked-up records of one stack.

    Args:
        arrays: the stack's physical arrays; replaced by their new values.
        index: this stack's part of the batch.
        weight_records: the records that `gather_records` read of `arrays[0]`, unchanged since.
        gradient: of each unique record, `[U, D]`.
        rates: learning rate of each table of the stack, `[tables]`; FROZEN for one that stays as it is.
        keys: of this step's random bits, for weights that are rounded by chance; see `step_keys`.
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
    rate = _rates_of(rates, index.ints.table)
    change, slot_changes = stack.rule.step(weights, values, gradient, rate)
    if stack.update_must_read:
        # Of no effect: nan plus anything is nan. But nothing a compiler could leave out.
        change = torch.where(weights != weights, weights, change)
    changes = {WEIGHT: change, **slot_changes}
    record, valid = spare_frozen(index.ints.record, index.valid, rate, stack.padding_record)
    for layout, array, before in zip(stack.arrays, arrays, records, strict=True):
        if kernel_writes(layout, len(record)):
            new = torch.where(moves(rate), before + join_lanes(layout, changes), before)
            replace_records(layout, array, index.ints.record, new, index.valid)
    for number, layout in enumerate(stack.arrays):
        if layout.packed_dim is not None:
            held = {WEIGHT: weights, **values}
            now = {name: held[name] + changes[name] for name in layout.fields}
            lanes = _new_lanes(layout, now, index, keys)
            taken = arrays[number], record, records[number]
            arrays[number] = replace_packed(layout, *taken, lanes, valid)
    write_changes(arrays, stack.arrays, record, changes, valid)


def _new_lanes(
    layout: ArrayLayout, now: dict[str, Tensor], index: StackIndex, keys: Tensor | None
) -> dict[str, Tensor]:
    """The lanes of the fields of an array of packed numbers.

    Args:
        now: field → its new numbers, float32.
        keys: of the random bits; None rounds to nearest.
    """
    ints, stack = index.ints, index.shape.order.stack
    lanes = {}
    for name in layout.fields:
        if name not in layout.packed:
            lanes[name] = lanes_of(layout, name, now[name])
            continue
        random = None
        if keys is not None:
            which = stack.packed.index(name), len(stack.packed)
            random = random_bits(keys.view(-1), ints.record, ints.table, stack.dim, *which)
        lanes[name] = packed(rounded_bits(now[name], random))
    return lanes


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
        arrays: the stack's physical arrays; replaced by their new values.
        ints: one device's part of `round_batch.ints`, on the device.
        gradients: of each lookup of the batch, `[N, D]`.
        rates: learning rate of each table of the stack.
    """
    assert stack.rule is not None
    record, table, *lookups = cut(ints, [round_batch.rows] * (2 + round_batch.rounds))
    rate = _rates_of(rates, table)
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


def apply_to_all_rows(
    arrays: list[Tensor], index: StackIndex, gradient: Tensor, rates: Tensor
) -> None:
    """Give each record of a stack one optimizer step, those not looked up with a zero gradient.

    Arguments as for `apply_stack`.
    """
    stack = index.shape.order.stack
    assert stack.rule is not None
    count = stack.num_records
    sums = torch.where(index.valid, gradient, 0.0)
    dense = torch.zeros(count + 1, stack.dim, dtype=sums.dtype, device=sums.device)
    dense = dense.index_add(0, index.ints.record, sums)[:count]
    values = {  # of a cut record, too, the fields follow each other in memory
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
        change = pad(join_lanes(layout, changes), (0, 0, 0, missing))
        array.add_(change.view(array.shape))


def _rates_of(rates: Tensor, table: Tensor) -> Tensor:
    """The learning rate of each record `[U, 1]`, or `[1]` where all records are of one table.

    Args:
        rates: of the stack's tables. table: `[U]`, the table of each record, counted in the stack.
    """
    return rates if len(rates) == 1 else rates.index_select(0, table)[:, None]


def _rates_of_all(rates: Tensor, stack: StackLayout) -> Tensor:
    """The learning rate of every record `[V of the stack, 1]`, or `[1]` where all are of one table."""
    if len(rates) == 1:
        return rates
    # torch_xla would compute an arange on the host and make it a constant of the program.
    ends = [*stack.first_records[1:], stack.num_records]
    sizes = [end - first for first, end in zip(stack.first_records, ends, strict=True)]
    parts = [rates.narrow(0, table, 1).expand(size) for table, size in enumerate(sizes)]
    return torch.cat(parts)[:, None]

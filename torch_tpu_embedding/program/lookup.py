"""The forward program: gather the unique records of a stack, hand them to every place that asked.

Static shapes, plain ATen: `index_select` and `index_add_` are the forms that XLA turns into one gather
and one in-place scatter. Letters: B batch, H length of a bag, N ids, U unique rows, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

import torch
from torch import Tensor

from .. import runtime
from ..batch.program_shape import Segment, StackSizes
from ..config.quantization import quantize
from ..tables.layout import WEIGHT, ArrayLayout


@dataclass(frozen=True)
class StackIndex:
    """One stack's part of a batch, on the device."""

    sizes: StackSizes
    record: Tensor
    """`[U]` int32, rising; the padding record at the end."""
    group: Tensor
    """`[U]` int32: which of the stack's tables the record is of; empty if there is one table."""
    served: Tensor
    """`[num_slots]` int32: the unique record that lies in each slot sent to other devices."""
    to_direct: Tensor
    """`[num_direct]` int32: the row at each direct place: a unique record, or the slot it comes in."""
    to_fixed: Tensor
    """`[num_fixed]` int32: the row at each place of the features whose bags have one length H, likewise;
    for each run of them `[H, bags]`, the first ids of all its bags first."""
    to_ragged: Tensor
    """`[N]` int32: the row of each id of the others, likewise."""
    bag: Tensor
    """`[N]` int32, rising: the bag of each such id."""
    fixed_gain: Tensor
    """`[num_fixed]` float32: the factor of each place in its bag's sum; 0 where there is only padding."""
    ragged_gain: Tensor
    """`[N]` float32, likewise."""

    @property
    def valid(self) -> Tensor:
        """`[U, 1]` bool: False for the padding at the end."""
        return (self.record != self.sizes.plan.stack.padding_record)[:, None]

    @property
    def places(self) -> list[Tensor]:
        """The row of each place: of the runs of direct segments one after another, then of those of fixed
        ones, then of all ragged ids."""
        plan = self.sizes.plan
        places = cut(self.to_direct, _places(plan.direct_runs))
        places += cut(self.to_fixed, _places(plan.fixed_runs))
        return [*places, self.to_ragged] if plan.num_bags else places

    @property
    def fixed_gains(self) -> list[Tensor]:
        """The gains of each run of fixed segments, `[H · bags, 1]`."""
        runs = self.sizes.plan.fixed_runs
        return separate(self.fixed_gain[:, None], _places(runs)) if runs else []


def _places(runs: Sequence[Sequence[Segment]]) -> list[int]:
    return [sum(segment.places for segment in run) for run in runs]


def split_buffers(
    sizes: tuple[StackSizes, ...], ints: Tensor, floats: Tensor
) -> tuple[StackIndex, ...]:
    """Name the parts of a batch's two device buffers."""
    parts = iter(cut(ints, [part for stack in sizes for part in stack.int_parts]))
    gains = iter(cut(floats, [part for stack in sizes for part in stack.float_parts]))
    return tuple(
        StackIndex(
            stack,
            record=next(parts),
            group=next(parts),
            served=next(parts),
            to_direct=next(parts),
            to_fixed=next(parts),
            to_ragged=next(parts),
            bag=next(parts),
            fixed_gain=next(gains),
            ragged_gain=next(gains),
        )
        for stack in sizes
    )


def cut(tensor: Tensor, lengths: list[int]) -> list[Tensor]:
    """`tensor.split(lengths)`, as slices: torch_xla 2.9 aborts the process when one result of an
    operator with several (split, sort) is used as an index."""
    if len(lengths) > 1 and min(lengths) == max(lengths):
        parts = torch.ops.aten.unbind_copy.int(tensor.view(len(lengths), -1))
        return list(parts)  # half as long to trace
    ends = accumulate(lengths)
    return [tensor.narrow(0, end - size, size) for end, size in zip(ends, lengths, strict=True)]


def separate(tensor: Tensor, lengths: list[int]) -> list[Tensor]:
    """`cut` for what is never an index: copies, which do not keep alive what they are parts of."""
    if len(lengths) == 1:
        return [tensor]
    return list(torch.ops.aten.split_with_sizes_copy.default(tensor, lengths))


def join(parts: list[Tensor]) -> Tensor:
    """The parts end to end."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def gather_records(layout: ArrayLayout, array: Tensor, record: Tensor) -> Tensor:
    """The records `[U, record_width]` of an array, or `[fields * U, D]`, field after field, if they are
    cut; `field_of` reads both."""
    if layout.is_vector:
        return array.index_select(0, record)[:, None]
    if layout.is_cut:
        places = [field_row(layout, record, name) for name in layout.fields]
        return array.index_select(0, torch.cat(places))
    rows = array.index_select(0, physical_row(layout, record))
    if layout.records_per_row == 1:
        return rows
    rows = rows.view(-1, layout.records_per_row, layout.record_width)
    # A select, not a product with 0 and 1: the neighbours in the row may hold inf or nan.
    return torch.where(lane_mask(layout, record), rows, 0.0).sum(1)


def gather_weights(layout: ArrayLayout, array: Tensor, record: Tensor) -> Tensor:
    """The weights `[U, D]` of records of which nothing else is needed."""
    if layout.is_cut:
        return array.index_select(0, field_row(layout, record, WEIGHT))
    return field_of(layout, gather_records(layout, array, record), WEIGHT)


def field_of(layout: ArrayLayout, records: Tensor, field: str) -> Tensor:
    """One field `[U, width]` of gathered records."""
    if not layout.is_cut:
        return records[:, layout.lanes(field)]
    count = records.shape[0] // len(layout.fields)
    return records.narrow(0, layout.fields.index(field) * count, count)


def field_row(layout: ArrayLayout, record: Tensor, field: str) -> Tensor:
    """The physical row of one field of a record that is cut."""
    return record * len(layout.fields) + layout.fields.index(field)


def physical_row(layout: ArrayLayout, record: Tensor) -> Tensor:
    """The row of its array in which a record lies."""
    return record >> layout.shift if layout.shift else record


def lane_mask(layout: ArrayLayout, record: Tensor) -> Tensor:
    """`[U, records_per_row, 1]` bool: which place of its physical row a record has."""
    places = torch.arange(layout.records_per_row, dtype=torch.int32, device=record.device)
    return ((record & (layout.records_per_row - 1))[:, None] == places)[:, :, None]


def rows_of(index: StackIndex, records: Tensor) -> Tensor:
    """What a device hands out of the records it has gathered: their weights `[U, D]`, rounded if the table
    is, or whole records `[U, record_width]`, which begin with them; padding is 0."""
    stack = index.sizes.plan.stack
    if stack.hands_out_records:
        return records
    return _rounded(index, field_of(stack.arrays[0], records, WEIGHT))


def rows_alone(index: StackIndex, array: Tensor) -> Tensor:
    """`rows_of` the array of the weights, `[U, D]`, where nothing else of the records is needed."""
    weights = gather_weights(index.sizes.plan.stack.arrays[0], array, index.record)
    return _rounded(index, weights)


def _rounded(index: StackIndex, weights: Tensor) -> Tensor:
    stack = index.sizes.plan.stack
    rows = quantize(weights, stack.quantization)
    if stack.quantization is not None:  # 0 may round to another value
        rows = torch.where(index.valid, rows, 0.0)
    return rows


def rows_to_send(index: StackIndex, rows: Tensor) -> Tensor:
    """The rows in the slots of the devices that asked for them, `[G, block, D]`."""
    sizes = index.sizes
    weights = _weights(index, rows)
    return weights.index_select(0, index.served).view(sizes.num_devices, sizes.block, -1)


def activations(index: StackIndex, rows: Tensor) -> list[Tensor]:
    """The activations of each segment of the plan, `[*shape, D]`.

    Args:
        rows: what `rows_of` gave, or what came of the exchange `[num_slots, D]`.

    Direct places take whole records, if that is what they are, and lose the other lanes in what uses
    them; the sums of bags would read them all.
    """
    plan = index.sizes.plan
    places = iter(index.places)
    outputs: list[Tensor] = []
    for run in plan.direct_runs:
        # A gather for each large feature: one for all would be cut up again, which copies.
        taken = _weights(index, rows.index_select(0, next(places)))
        outputs += separate(taken, [each.count for each in run])
    if plan.fixed_runs or plan.num_bags:
        rows = _weights(index, rows)
    for run, gain in zip(plan.fixed_runs, index.fixed_gains, strict=True):
        weighted = rows.index_select(0, next(places)) * gain
        sums = _sum_bags(weighted.view(run[0].form.length, -1, plan.stack.dim))
        outputs += separate(sums, [each.count for each in run])
    if plan.num_bags:
        weighted = rows.index_select(0, next(places)) * index.ragged_gain[:, None]
        sums = torch.zeros(plan.num_bags, plan.stack.dim, dtype=rows.dtype, device=rows.device)
        sums = sums.index_add(0, index.bag, weighted)
        outputs += separate(sums, [segment.count for segment in plan.ragged])
    # A copy, which costs nothing in a program: of a view that a caller keeps beyond the step, that step's
    # program would write out what it is a view of, too.
    shaped = torch.ops.aten.view_copy.default
    return [
        out if len(segment.form.shape) == 1 else shaped(out, [*segment.form.shape, plan.stack.dim])
        for out, segment in zip(outputs, plan.segments, strict=True)
    ]


def _weights(index: StackIndex, rows: Tensor) -> Tensor:
    """The weights `[…, D]` of what `rows_of` gave."""
    dim = index.sizes.plan.stack.dim
    if rows.shape[1] == dim:
        return rows
    # No view, for the reason that `activations` gives.
    weights: Tensor = torch.ops.aten.slice_copy.Tensor(rows, 1, 0, dim)
    return weights


def _sum_bags(rows: Tensor) -> Tensor:
    """`[bags, D]`, the sums of `[H, bags, D]`, which do not depend on what other bags there are."""
    if runtime.is_accelerated(rows.device):
        return rows.sum(0)
    # torch adds up in one order or another, depending on how many numbers lie side by side.
    return reduce(torch.add, rows.unbind(0))

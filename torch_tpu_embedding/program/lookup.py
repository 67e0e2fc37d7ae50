"""The forward program: gather the unique records of a stack, hand a row to each lookup.

Static shapes, plain ATen: `index_select` and `index_add_` are the forms that XLA turns into one gather
and one in-place scatter. Letters: B batch, H ids of a bag of fixed length, N lookups, U unique
rows, D dim, G devices of all.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from .. import runtime
from ..config.quantization import quantize
from ..config.resolved import WEIGHT
from ..kernels.sum_rows import sum_rows
from ..runtime.slices import separate
from .records import field_of, gather_weights
from .stack_index import StackIndex


def rows_of(index: StackIndex, records: Tensor) -> Tensor:
    """The rows of gathered records that lookups or other devices take; padding is 0.

    Returns:
        The weights `[U, D]`, rounded if the table's are, or whole records `[U, record_width]`, which begin
        with the weights.
    """
    stack = index.shape.order.stack
    if stack.hands_out_records:
        return records
    return _rounded(index, field_of(stack.arrays[0], records, WEIGHT))


def rows_alone(index: StackIndex, array: Tensor) -> Tensor:
    """The rows `[U, D]` that `rows_of` would give, read from the array of the weights without the slots."""
    weights = gather_weights(index.shape.order.stack.arrays[0], array, index.ints.record)
    return _rounded(index, weights)


def _rounded(index: StackIndex, weights: Tensor) -> Tensor:
    stack = index.shape.order.stack
    rows = quantize(weights, stack.quantization)
    if stack.quantization is not None:  # 0 may round to another value
        rows = torch.where(index.valid, rows, 0.0)
    return rows


def rows_to_send(index: StackIndex, rows: Tensor) -> Tensor:
    """The exchange buffer that leaves this device, `[G, positions_per_device, D]`: for each device its
    rows."""
    shape = index.shape
    weights = _weights(index, rows)
    return weights.index_select(0, index.ints.incoming).view(
        shape.num_devices, shape.positions_per_device, -1
    )


def activations(index: StackIndex, rows: Tensor) -> list[Tensor]:
    """The activations of each span of the stack, `[*shape, D]`.

    Args:
        rows: the result of `rows_of`, or the exchange buffer that arrived, `[num_positions, D]`.

    One-hot lookups take whole records where `rows` has them, and leave the slots out afterwards at no cost;
    a sum of bags would read the slots too, so its weights are split off first.
    """
    order = index.shape.order
    lookup_rows = iter(index.lookup_rows)
    outputs: list[Tensor] = []
    for fused in order.fused_one_hot:
        # A gather for each large feature: the result of one for all would be split again, which copies.
        taken = _weights(index, rows.index_select(0, next(lookup_rows)))
        outputs += separate(taken, [each.count for each in fused])
    if order.fused_fixed_length or order.num_bags:
        rows = _weights(index, rows)
    for fused, gain in zip(order.fused_fixed_length, index.fixed_length_gains, strict=True):
        weighted = rows.index_select(0, next(lookup_rows)) * gain
        sums = _sum_bags(weighted.view(fused[0].form.length, -1, order.stack.dim))
        outputs += separate(sums, [each.count for each in fused])
    if order.num_bags:
        bag, by_kernel = index.ints.bag, index.sums_by_kernel
        lookups = (rows, next(lookup_rows), bag, index.ragged_gains)
        sums = sum_rows(*lookups, order.num_bags, by_kernel)
        outputs += separate(sums, [span.count for span in order.ragged])
    # A copy, which costs nothing inside a program. If the caller keeps a view beyond the step, the step's
    # program writes out the whole tensor under the view, too.
    shaped = torch.ops.aten.view_copy.default
    return [
        out if len(span.form.shape) == 1 else shaped(out, [*span.form.shape, order.stack.dim])
        for out, span in zip(outputs, order.spans, strict=True)
    ]


def _weights(index: StackIndex, rows: Tensor) -> Tensor:
    """The weights `[…, D]` of the rows that `rows_of` gave."""
    dim = index.shape.order.stack.dim
    if rows.shape[1] == dim:
        return rows
    # No view, for the reason that `activations` gives.
    weights: Tensor = torch.ops.aten.slice_copy.Tensor(rows, 1, 0, dim)
    return weights


def _sum_bags(rows: Tensor) -> Tensor:
    """The sums `[bags, D]` of `[H, bags, D]`; the sum of a bag does not depend on the other bags."""
    if runtime.is_accelerated(rows.device):
        return rows.sum(0)
    # torch adds up in one order or another, depending on how many numbers lie side by side.
    return reduce(torch.add, rows.unbind(0))

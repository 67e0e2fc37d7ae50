"""Rows that start anew, written into the arrays of their stack as part of the step's program.

Sets, not changes that are added: what lay there may be nan. Letters: n new rows, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...config.resolved import WEIGHT
from ...runtime.slices import cut
from ...tables.layout import ArrayLayout, StackLayout
from ...tables.low_precision.lanes import lanes_of
from ...tables.record_shapes import LANES
from ..records import field_row, join_lanes


def write_new_records(
    stack: StackLayout, arrays: Sequence[Tensor], ints: Tensor, weights: Tensor
) -> None:
    """Give records their start values, in place.

    Args:
        ints: int32: the records `[n]`, rising, with the padding record at the end; then, for each array
            whose physical rows hold R > 1 records, `[n, R]`: for each position in the physical row of a
            record the number of the new record there, n where it is none.
        weights: `[n, D]`; slots start as the rule says.
    """
    count = weights.shape[0]
    sizes = [count, *(count * each.records_per_row for each in stack.arrays if shares_rows(each))]
    record, *neighbours = cut(ints, sizes)
    positions = iter(neighbours)
    valid = (record != stack.padding_record)[:, None]
    starts = stack.rule.slot_initial_values() if stack.rule is not None else {}
    values = {WEIGHT: torch.where(valid, weights, 0.0)}
    for layout, array in zip(stack.arrays, arrays, strict=True):
        for name in layout.fields:
            if name != WEIGHT:
                start = starts[name]
                if name in layout.packed:
                    start = torch.tensor(start, dtype=torch.bfloat16, device="cpu").item()
                filled = weights.new_full((count, layout.numbers(name)), start)
                values[name] = torch.where(valid, filled, 0.0)
        if layout.fields_have_rows:
            for name in layout.fields:
                array.index_copy_(0, field_row(layout, record, name).long(), values[name])
            continue
        lanes = {name: lanes_of(layout, name, values[name]) for name in layout.fields}
        joined = join_lanes(layout, lanes)
        if layout.is_vector:
            array.index_copy_(0, record.long(), joined[:, 0])
        elif layout.parts > 1:  # a record lies in several rows
            first = record * layout.parts
            rows = torch.stack([first + number for number in range(layout.parts)], dim=1)
            array.index_copy_(0, rows.view(-1).long(), joined.view(-1, LANES))
        elif layout.records_per_row == 1:
            array.index_copy_(0, record.long(), joined)
        else:
            _write_lanes(layout, array, record, next(positions), joined)


def shares_rows(layout: ArrayLayout) -> bool:
    """True if a physical row of the array holds several records."""
    return layout.records_per_row > 1 and not layout.is_vector


def _write_lanes(
    layout: ArrayLayout, array: Tensor, record: Tensor, at: Tensor, joined: Tensor
) -> None:
    """Physical rows are read, changed where a lane has a new record, and written; equal rows are equal."""
    physical = record >> layout.shift
    held = array.index_select(0, physical).view(-1, layout.records_per_row, layout.record_width)
    count = joined.shape[0]
    blank = torch.cat([joined, joined.new_zeros(1, joined.shape[1])])
    new = blank.index_select(0, at).view_as(held)
    is_new = (at < count).view(-1, layout.records_per_row, 1)
    mixed = torch.where(is_new, new, held)
    array.index_copy_(0, physical.long(), mixed.reshape(-1, layout.row_width))

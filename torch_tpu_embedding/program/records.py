"""The access to records in the arrays of a stack: one gather reads them, one scatter-add changes them, or a
kernel writes them.

Letters: U unique rows, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import runtime
from ..config.resolved import WEIGHT
from ..kernels.narrow_records import merge_into_rows
from ..kernels.write_rows import (
    FEWEST_MARKED_ROWS,
    ROWS_A_RECORD,
    write_marked_rows,
    write_records,
)
from ..tables.layout import ArrayLayout
from ..tables.low_precision.lanes import numbers_of
from ..tables.record_shapes import LANES


def gather_records(layout: ArrayLayout, array: Tensor, record: Tensor) -> Tensor:
    """The records `[U, record_width]` of an array; `[fields * U, D]`, field after field, if the fields have
    rows of their own. `field_of` reads both."""
    if layout.is_vector:
        return array.index_select(0, record)[:, None]
    if layout.fields_have_rows:
        of_fields = [field_row(layout, record, name) for name in layout.fields]
        return array.index_select(0, torch.cat(of_fields))
    if layout.parts > 1:
        return _gather_rows(layout, array, record, layout.parts)
    rows = array.index_select(0, physical_row(layout, record))
    if layout.records_per_row == 1:
        return rows
    rows = rows.view(-1, layout.records_per_row, layout.record_width)
    # A select, not a product with 0 and 1: the neighbours in the row may hold inf or nan.
    return torch.where(lane_mask(layout, record), rows, _zero(rows)).sum(1, dtype=rows.dtype)


def gather_weights(layout: ArrayLayout, array: Tensor, record: Tensor) -> Tensor:
    """The weights `[U, D]` of records, without reading more of them than is necessary."""
    if layout.fields_have_rows:
        return array.index_select(0, field_row(layout, record, WEIGHT))
    if layout.parts > 1:
        lanes = layout.lanes(WEIGHT)
        return _gather_rows(layout, array, record, -(-lanes.stop // LANES))[:, lanes]
    return field_of(layout, gather_records(layout, array, record), WEIGHT)


def _gather_rows(layout: ArrayLayout, array: Tensor, record: Tensor, count: int) -> Tensor:
    """The first `count` of the rows of each record, side by side: `[U, count * 128]`."""
    first = record * layout.parts
    rows = array.index_select(0, torch.cat([first + number for number in range(count)]))
    # one row of all records after the other: to put the rows of a record side by side then moves no lanes
    return torch.cat(rows.view(count, -1, LANES).unbind(), dim=1)


def field_of(layout: ArrayLayout, records: Tensor, field: str) -> Tensor:
    """One field `[U, width]` of gathered records, in float32."""
    if not layout.fields_have_rows:
        return numbers_of(layout, field, records[:, layout.lanes(field)])
    count = records.shape[0] // len(layout.fields)
    return records.narrow(0, layout.fields.index(field) * count, count)


def field_row(layout: ArrayLayout, record: Tensor, field: str) -> Tensor:
    """The physical row of one field of a record whose fields have rows of their own."""
    return record * len(layout.fields) + layout.fields.index(field)


def physical_row(layout: ArrayLayout, record: Tensor) -> Tensor:
    """The row of its array in which a record lies."""
    return record >> layout.shift if layout.shift else record


def lane_mask(layout: ArrayLayout, record: Tensor) -> Tensor:
    """`[U, records_per_row, 1]` bool: True at the position of each record in its physical row."""
    positions = torch.arange(layout.records_per_row, dtype=torch.int32, device=record.device)
    return ((record & (layout.records_per_row - 1))[:, None] == positions)[:, :, None]


def read_fields(layouts: Sequence[ArrayLayout], records: Sequence[Tensor]) -> dict[str, Tensor]:
    """Field name → `[U, width]`, out of the gathered records of each array."""
    return {
        name: field_of(layout, record, name)
        for layout, record in zip(layouts, records, strict=True)
        for name in layout.fields
    }


def kernel_writes(layout: ArrayLayout, count: int) -> bool:
    """True if a kernel writes that many records of an array; else a scatter-add does.

    Records of several rows it always writes, for XLA would scatter each row.
    """
    if not layout.written_by_kernel or layout.parts > 1:
        return layout.written_by_kernel
    fewest = 1 if layout.records_per_row == 1 else FEWEST_MARKED_ROWS
    return count >= fewest and count * ROWS_A_RECORD <= layout.num_rows


def write_changes(
    arrays: list[Tensor],
    layouts: Sequence[ArrayLayout],
    record: Tensor,
    changes: dict[str, Tensor],
    valid: Tensor,
) -> None:
    """Add the changes of the fields `[U, width]` to the records where `valid` `[U, 1]`.

    Arrays that kernels write (`kernel_writes`) are left to `replace_records`.

    Args:
        arrays: replaced by their new values.
    """
    scattered = [
        number
        for number, layout in enumerate(layouts)
        if not kernel_writes(layout, len(record)) and layout.packed_dim is None
    ]
    if not scattered:
        return
    # The padding record must stay zero even where a rule or a gradient gives nan for it. Adding -0.0, not
    # 0.0, leaves every bit pattern as it is. Before the fields are joined, for then it costs no pass.
    nothing = changes[WEIGHT].new_full((), -0.0)  # one for all, which `where` would each make
    changes = {name: torch.where(valid, change, nothing) for name, change in changes.items()}
    for number in scattered:
        layout = layouts[number]
        if layout.fields_have_rows:
            for name in layout.fields:
                rows = field_row(layout, record, name)
                arrays[number] = _add_rows(arrays[number], rows, changes[name])
        else:
            change = join_lanes(layout, changes)
            arrays[number] = _with_added(layout, arrays[number], record, change)


def replace_packed(
    layout: ArrayLayout,
    array: Tensor,
    record: Tensor,
    before: Tensor,
    now: dict[str, Tensor],
    valid: Tensor,
) -> Tensor:
    """An array of packed numbers with new lanes in the records where `valid` `[U, 1]`.

    What is added is the difference of the lanes as integers, which wraps around: every bit is as it should
    be, whatever number it stands for, and padding adds 0.

    Args:
        before: the records `[U, record_width]` as they are in the array.
        now: field → its lanes `[U, width]`.
    """
    change = torch.where(valid, join_lanes(layout, now) - before, 0)
    return _with_added(layout, array, record, change)


def replace_records(
    layout: ArrayLayout, array: Tensor, record: Tensor, records: Tensor, valid: Tensor
) -> None:
    """Write whole records by a kernel, in place: the same as `write_changes`, given the sums.

    Args:
        record: `[U]` int32, rising, with the padding at the end.
        records: the new records `[U, record_width]`.
        valid: `[U, 1]` bool, False for padding.
    """
    if layout.records_per_row == 1:
        write_records(array, record, records, valid.sum(dtype=torch.int32).view(1))
        return
    row = physical_row(layout, record)
    rows = array.index_select(0, row)  # XLA sees that the lookup has read them
    row = torch.where(valid.view(-1), row, -1)
    position = record & (layout.records_per_row - 1)
    write_marked_rows(array, *merge_into_rows(rows, row, position, records))


def join_lanes(layout: ArrayLayout, changes: dict[str, Tensor]) -> Tensor:
    """The fields of an array side by side as one record, padded to its width."""
    parts = [changes[name] for name in layout.fields]
    used = sum(part.shape[1] for part in parts)
    if used < layout.record_width:
        blank = parts[0].new_zeros(parts[0].shape[0], layout.record_width - used)
        parts = [*parts, blank]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _with_added(layout: ArrayLayout, array: Tensor, record: Tensor, change: Tensor) -> Tensor:
    """The array with `change` added to records; records that share a physical row may both be in it."""
    if layout.is_vector:
        return _add_rows(array, record, change[:, 0])
    if layout.records_per_row > 1:
        nothing = -0.0 if layout.packed_dim is None else 0
        change = torch.where(lane_mask(layout, record), change[:, None, :], nothing)
        change = change.reshape(-1, layout.row_width)
    return _add_rows(array, physical_row(layout, record), change)


def _zero(like: Tensor) -> float | int:
    return 0.0 if like.is_floating_point() else 0


def add_rows_in_place(array: Tensor, rows: Tensor, change: Tensor) -> Tensor:
    """`array.index_add_(0, rows, change)`, without the pass over `change` in which torch_tpu multiplies it
    by that operator's factor, 1.

    Args:
        rows: `[n]` int32.
        change: `[n]` or `[n, width]`.
    """
    if array.device.type != runtime.device_type():
        return array.index_add_(0, rows, change)  # torch's own scatter_add_ takes int64 alone
    # of numbers repeated along a row torch_tpu takes one, and adds whole rows
    index = rows if change.dim() == 1 else rows[:, None].expand_as(change)
    return array.scatter_add_(0, index, change)


def _add_rows(array: Tensor, rows: Tensor, change: Tensor) -> Tensor:
    if runtime.backend() == "torch_tpu":
        return add_rows_in_place(array, rows, change)  # it runs operators one by one
    if runtime.is_spmd():  # a part of an array, which out of place would make another program
        return array.index_add_(0, rows, change)
    # To the same program; in place it goes through functions in Python, for three times as long.
    return array.index_add(0, rows, change)

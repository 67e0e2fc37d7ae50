"""The layout of tables on a device: stacks of tables, records of fields, lanes of a physical row.

A *stack* holds all tables that one program can serve (same dim, dtype, optimizer rule and rounding); its
records are numbered table after table, so (table, row on this device) ↔ record is one addition. A *record*
holds all that belongs to one id: its weights and its slots. Each stack has one or more physical arrays; an
array holds some fields of every record, one or several records to a physical row.

Numbers in bfloat16 are packed: two of a row share a lane, and the array that holds them is int32
(`lanes.py`): bfloat16 numbers could not be changed by adding, the difference of their bits is exact.

Nothing here shows in the public API: state_dict, errors and names speak of tables only.
Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from ..config.quantization import QuantizationConfig
from ..config.resolved import WEIGHT, Table
from ..distributed.placement import Placement
from ..optimizers import Optimizer
from ..runtime import DeviceKind
from .record_shapes import LANES, gives_fields_rows, record_arrays, record_lanes
from .sizes import MAX_RECORDS, check_sizes

_ROW_STEP = 8  # physical rows come in multiples of the tile height
_VECTOR_STEP = 1024  # and vectors in multiples of a whole tile
_WIDEST_FOR_KERNEL = 8 * LANES  # two blocks of 1,024 such records take 8 MiB of on-chip memory
_ON_CHIP = 48 << 20  # bytes that XLA may bring into on-chip memory, where its scatter costs little
_MOST_ON_CHIP = 128 << 20  # and of records of several rows, or beside a vector


@dataclass(frozen=True)
class ArrayLayout:
    """One physical array `[num_rows, row_width]` of a stack."""

    fields: tuple[str, ...]
    """The fields of a record that this array holds, in lane order: 'weight' or slot names."""
    widths: tuple[int, ...]
    """Lanes of each field: D, half of it for a packed one, or 1 for a slot that is one number a row."""
    record_width: int
    """Lanes of one record, padding included; at least the sum of `widths`."""
    records_per_row: int
    """The number of records side by side in one physical row; a power of two."""
    num_rows: int
    """Physical rows, with those that only pad the byte size. Where fields have rows of their own, the rows
    of all fields of a record count as one."""
    is_vector: bool = False
    """A record is one number, and the array `[num_rows]`."""
    fields_have_rows: bool = False
    """Each field is a physical row of its own, next to the others of its record:
    `[num_rows * fields, D]`."""
    written_by_kernel: bool = False
    """Row kernels write the records; a record of more than 128 lanes then lies in consecutive rows:
    `[num_rows * record_width / 128, 128]`."""
    packed_dim: int | None = None
    """D, if the array holds packed fields; its lanes are then int32. None: they are float32."""
    packed: tuple[str, ...] = ()
    """The fields of bfloat16 numbers, of which two share a lane."""

    @property
    def shape(self) -> tuple[int, ...]:
        if self.is_vector:
            return (self.num_rows,)
        return self.num_rows * self.parts, self.row_width // self.parts

    @property
    def parts(self) -> int:
        """Rows of the array for each of `num_rows`."""
        if self.written_by_kernel:
            return self.row_width // LANES
        return len(self.fields) if self.fields_have_rows else 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the array on the device."""
        return torch.float32 if self.packed_dim is None else torch.int32

    def numbers(self, field: str) -> int:
        """The numbers of a field in a record: D, or 1 for a slot that is one number a row."""
        if self.packed_dim is not None and field in self.packed:
            return self.packed_dim
        return self.widths[self.fields.index(field)]

    def lanes(self, field: str) -> slice:
        """The lanes of a field in a record of this array."""
        number = self.fields.index(field)
        start = sum(self.widths[:number])
        return slice(start, start + self.widths[number])

    @property
    def row_width(self) -> int:
        return self.record_width * self.records_per_row

    @property
    def num_elements(self) -> int:
        return self.num_rows * self.row_width

    @property
    def shift(self) -> int:
        """record >> shift is the physical row."""
        return self.records_per_row.bit_length() - 1


@dataclass(frozen=True)
class StackLayout:
    """The tables of one stack and its arrays; `arrays[0]` holds the weights."""

    table_indices: tuple[int, ...]
    """Positions in `Resolved.tables`, in record order."""
    first_records: tuple[int, ...]
    """The first record of each table."""
    dim: int
    rule: Optimizer | None
    """The update rule of these rows; None: they never change."""
    num_records: int
    """Records of rows on one device; the record of this number is the padding record, always zero."""
    arrays: tuple[ArrayLayout, ...]
    quantization: QuantizationConfig | None
    """The rounding of rows in a lookup; None: they are not rounded."""
    rounding: str | None
    """The rounding to bfloat16 in an update, 'stochastic' or 'nearest'; None: all fields are float32."""
    kind: DeviceKind
    """The kind of device that the programs are compiled for."""

    def span(self, table: int) -> tuple[int, int]:
        """The first record of one of the tables, and the one after its last."""
        ends = (*self.first_records[1:], self.num_records)
        number = self.table_indices.index(table)
        return self.first_records[number], ends[number]

    @property
    def steps_per_occurrence(self) -> bool:
        """True if the rule takes a step for each occurrence of an id, not one step for all of a batch."""
        return self.rule is not None and self.rule.steps_per_occurrence

    @property
    def reads_must_come_first(self) -> bool:
        """True if an update must be made to depend on the reads that precede it in the same program.

        XLA:CPU copies a whole array whose read and in-place update do not depend on each other.
        """
        return self.kind == "CPU"

    @property
    def update_must_read(self) -> bool:
        """True if an update must be made to depend on its own read, for its change follows from the
        gradient alone.

        The changes of other rules follow from weights or slots, and so depend on the read anyway.
        """
        return self.reads_must_come_first and self.fields == (WEIGHT,) and self.rounding is None

    @property
    def hands_out_records(self) -> bool:
        """True if each lookup gets the whole record of its id, of which the weights are taken afterwards.

        A TPU moves rows of up to 128 lanes as one, and an operator that uses a row can leave lanes out at
        no cost; to split the slots off all unique rows first is a pass of its own.
        """
        width = self.arrays[0].record_width
        as_they_are = self.quantization is None and self.rounding is None
        return self.kind == "TPU" and self.dim < width <= LANES and as_they_are

    @property
    def uses_kernels(self) -> bool:
        """True if kernels write some of the arrays."""
        return any(array.written_by_kernel for array in self.arrays)

    @property
    def packed(self) -> tuple[str, ...]:
        """The fields of bfloat16 numbers, of all arrays; the weights come first."""
        return tuple(name for array in self.arrays for name in array.packed)

    @property
    def padding_record(self) -> int:
        return self.num_records

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(name for array in self.arrays for name in array.fields)


_StackKey = tuple[int, Optimizer | None, QuantizationConfig | None, str | None, torch.dtype, int]


def build_stacks(
    tables: tuple[Table, ...],
    kind: DeviceKind,
    taken_sizes: Iterable[int] = (),
    placement: Placement | None = None,
    row_kernels: bool = False,
) -> tuple[StackLayout, ...]:
    """Group tables into stacks and lay out their arrays.

    Args:
        tables: in checkpoint order.
        kind: the kind of device that the programs are compiled for.
        taken_sizes: numbers of elements of other persistent arrays of this process. XLA pairs donated
            buffers with outputs by byte size, so two arrays of one size may be swapped, which costs a
            copy of both at every step; extra rows keep all sizes distinct.
        placement: how the tables are shared among devices; each has room for its share of the rows.
        row_kernels: True if kernels write the records where they can; of kind 'TPU' only.

    Raises:
        ValueError: a table has more rows than int32 can number.
    """
    placement = placement or Placement()
    check_sizes(tables, placement)
    rows_of = [placement.capacity(table.vocabulary_size) for table in tables]
    taken = set(taken_sizes)
    stacks = []
    for (dim, rule, quantization, rounding, _, _), members in _group(tables, rows_of).items():
        ends = [*accumulate(rows_of[index] for index in members)]
        first = tables[members[0]]
        packed = tuple(name for name in first.fields if first.dtype_of(name) == torch.bfloat16)
        arrays = _lay_out(kind, dim, rule, ends[-1], taken, packed)
        by_kernel = row_kernels and kind == "TPU" and not packed
        # if a step writes each record that was looked up once, and no other
        if by_kernel and rule and not (rule.steps_per_occurrence or rule.moves_all_rows):
            arrays = tuple(_for_kernel(array, arrays) for array in arrays)
        firsts = (0, *ends[:-1])
        stacks.append(
            StackLayout(
                tuple(members), firsts, dim, rule, ends[-1], arrays, quantization, rounding, kind
            )
        )
    return tuple(stacks)


def _for_kernel(array: ArrayLayout, arrays: Iterable[ArrayLayout]) -> ArrayLayout:
    """The layout of an array of a stack whose records kernels write, if they can and it pays."""
    rows = array.num_elements // LANES  # numbered by int32
    if array.is_vector or rows > MAX_RECORDS or array.row_width > _WIDEST_FOR_KERNEL:
        return array
    more = array.row_width > LANES or any(each.is_vector for each in arrays)
    small = _MOST_ON_CHIP if more else _ON_CHIP
    return replace(array, written_by_kernel=4 * array.num_elements > small)


def _group(tables: tuple[Table, ...], rows_of: list[int]) -> dict[_StackKey, list[int]]:
    """The tables of each stack, by position; a full stack is followed by another of the same kind."""
    groups: dict[_StackKey, list[int]] = {}
    sizes: dict[_StackKey, int] = {}
    for index, table in enumerate(tables):
        rule = table.optimizer.rule() if table.optimizer is not None else None
        config = table.config
        kept = (table.dim, rule, config.quantization_config, table.rounding, config.slot_dtype)
        part = 0
        while sizes.get((*kept, part), 0) + rows_of[index] > MAX_RECORDS:
            part += 1
        key = (*kept, part)
        groups.setdefault(key, []).append(index)
        sizes[key] = sizes.get(key, 0) + rows_of[index]
    return groups


def _lay_out(
    kind: DeviceKind,
    dim: int,
    rule: Optimizer | None,
    num_records: int,
    taken: set[int],
    packed: tuple[str, ...],
) -> tuple[ArrayLayout, ...]:
    """The arrays of one stack.

    Args:
        packed: the fields of which two numbers share a lane.
        taken: numbers of elements that no array may have; those of the new arrays are added.
    """
    slots = {name: rule.slot_width(name, dim) for name in rule.slot_variable_names} if rule else {}
    numbers = {WEIGHT: dim, **slots}
    lanes = {name: -(-count // 2) if name in packed else count for name, count in numbers.items()}
    wide = next((lanes[name] for name in slots if slots[name] == dim), None)
    arrays = []
    for fields in record_arrays(kind, dim, slots, lanes[WEIGHT], wide):
        widths = tuple(lanes[name] for name in fields)
        is_vector = kind == "TPU" and widths == (1,) and dim > 1 and WEIGHT not in fields
        width, per_row = (1, 1) if is_vector else record_lanes(kind, sum(widths))
        step = _VECTOR_STEP if is_vector else _ROW_STEP
        rows = -(-(num_records + 1) // per_row)  # one more record: the padding record
        rows = -(-rows // step) * step
        while rows * width * per_row in taken:
            rows += step
        taken.add(rows * width * per_row)
        has_rows = gives_fields_rows(kind, widths) and rows * len(fields) <= MAX_RECORDS
        array = ArrayLayout(fields, widths, width, per_row, rows, is_vector, has_rows)
        if here := tuple(name for name in fields if name in packed):
            array = replace(array, packed_dim=dim, packed=here, fields_have_rows=False)
        arrays.append(array)
    return tuple(arrays)

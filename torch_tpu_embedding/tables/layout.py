"""Where a table's rows lie on the device: stacks of tables, records of fields, lanes of a physical row.

A *stack* holds all tables that one program can serve (same dim, optimizer rule and rounding); its records
are numbered table after table, so (table, row on this device) ↔ record is one addition. A *record* is what
belongs to one id: its weights and its slots. Each stack has one or more physical arrays; an array holds
some fields of every record, one or several records to a physical row.

Nothing here shows in the public API: state_dict, errors and names speak of tables only.
Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..config.quantization import QuantizationConfig
from ..config.resolved import WEIGHT, Table
from ..optimizers import Optimizer
from ..runtime import DeviceKind
from .placement import Placement

LANES = 128  # of a TPU vector register; the HBM tile of 4-byte types is 8 x 128
_ROW_STEP = 8  # physical rows come in multiples of the tile height
_VECTOR_STEP = 1024  # and vectors in multiples of a whole tile
_FIELD_ROW_WIDTH = 64  # lanes; docs/lab/performance.md has the times
_MAX_RECORDS = 2**31 - 8  # record numbers are int32 on the device


@dataclass(frozen=True)
class ArrayLayout:
    """One physical array `[num_rows, row_width]` of a stack."""

    fields: tuple[str, ...]
    """What one record holds here, in lane order: 'weight' or slot names."""
    widths: tuple[int, ...]
    """Lanes of each field: D, or 1 for a slot that is one number a row."""
    record_width: int
    """Lanes of one record, padding included; at least the sum of `widths`."""
    records_per_row: int
    """How many records lie side by side in one physical row; a power of two."""
    num_rows: int
    """Physical rows (of all fields, if they are cut), with those that only pad the byte size."""
    is_vector: bool = False
    """A record is one number, and the array `[num_rows]`."""
    fields_have_rows: bool = False
    """Each field is a physical row of its own, next to the others of its record:
    `[num_rows * fields, D]`."""

    @property
    def shape(self) -> tuple[int, ...]:
        if self.is_vector:
            return (self.num_rows,)
        return self.num_rows * self.parts, self.row_width // self.parts

    @property
    def parts(self) -> int:
        """Rows of the array for each of `num_rows`."""
        return len(self.fields) if self.fields_have_rows else 1

    def lanes(self, field: str) -> slice:
        """Where a field lies in a record of this array."""
        place = self.fields.index(field)
        start = sum(self.widths[:place])
        return slice(start, start + self.widths[place])

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
    """What updates these rows; None: they never change."""
    num_records: int
    """Records of rows on one device; the record of this number is the padding record, always zero."""
    arrays: tuple[ArrayLayout, ...]
    quantization: QuantizationConfig | None
    """How rows are rounded as they are looked up."""
    kind: DeviceKind
    """What the programs are compiled for."""

    def span(self, table: int) -> tuple[int, int]:
        """The first record of one of the tables, and the one after its last."""
        ends = (*self.first_records[1:], self.num_records)
        place = self.table_indices.index(table)
        return self.first_records[place], ends[place]

    @property
    def steps_per_occurrence(self) -> bool:
        """Whether the rule takes a step for each occurrence of an id, not one for all of a batch."""
        return self.rule is not None and self.rule.steps_per_occurrence

    @property
    def reads_must_come_first(self) -> bool:
        """Whether an update has to be made dependent on what is read before it in the same program.

        XLA:CPU copies a whole array whose read and in-place update do not depend on each other.
        """
        return self.kind == "CPU"

    @property
    def update_must_read(self) -> bool:
        """Whether that needs something for the rows of the update itself: where its change comes from the
        gradient alone."""
        return self.reads_must_come_first and self.fields == (WEIGHT,)

    @property
    def hands_out_records(self) -> bool:
        """Whether each place of a batch gets the whole record of its id, and only then its weights.

        A TPU moves rows of up to 128 lanes as one, and what uses a row can leave lanes out at no cost; to
        cut the slots off all unique rows first is a pass of its own.
        """
        width = self.arrays[0].record_width
        return self.kind == "TPU" and self.dim < width <= LANES and self.quantization is None

    @property
    def padding_record(self) -> int:
        return self.num_records

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(name for array in self.arrays for name in array.fields)


def record_arrays(kind: DeviceKind, dim: int, slots: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Which fields share an array: a pure function of the device kind, the dim and the slots' widths.

    One array for all where that is possible: a single gather then brings the slots with the weights, a
    single scatter-add writes both, and the update cannot but depend on the read. (XLA:CPU copies a
    whole array whose read and in-place update do not depend on each other, which is the case of an
    Adagrad accumulator that lies alone.)

    On TPU a slot of one number a row is a vector of its own. The others share the array of the weights (a
    scatter-add costs per row, so one array is written in half to a third of the time of several), but not
    where padding to rows of 128 lanes would then take more memory than in arrays apart.
    """
    if kind == "CPU":
        return [(WEIGHT, *slots)]
    wide = tuple(name for name, width in slots.items() if width == dim)
    narrow = [(name,) for name in slots if name not in wide]
    together: list[tuple[str, ...]] = [(WEIGHT, *wide)]
    apart: list[tuple[str, ...]] = [(WEIGHT,), *((name,) for name in wide)]
    if wide and dim * len(wide) <= LANES:
        apart = [(WEIGHT,), wide]

    def lanes(arrays: list[tuple[str, ...]]) -> int:
        return sum(record_lanes(kind, dim * len(fields))[0] for fields in arrays)

    fits = dim * len(together[0]) <= LANES
    return [*(together if fits or lanes(together) <= lanes(apart) else apart), *narrow]


def record_lanes(kind: DeviceKind, lanes: int) -> tuple[int, int]:
    """(record_width, records_per_row) for a record of `lanes` numbers.

    CPU: exact width. TPU: a physical row is a multiple of 128 lanes, for any other width makes the
    compiler copy the whole table; records narrower than that share a row in powers of two.
    """
    if kind == "CPU":
        return lanes, 1
    if lanes > LANES:
        return -(-lanes // LANES) * LANES, 1
    width = 1 << (lanes - 1).bit_length()
    return width, LANES // width


def gives_fields_rows(kind: DeviceKind, widths: tuple[int, ...]) -> bool:
    """Whether the fields of a record are physical rows of their own.

    XLA:CPU makes a pass of its own to put the changes of the fields side by side, which this saves; narrow
    rows cost more than they save. One gather still brings all fields, so the update depends on the read.
    """
    return kind == "CPU" and len(widths) > 1 and min(widths) == max(widths) >= _FIELD_ROW_WIDTH


def check_sizes(tables: tuple[Table, ...], placement: Placement) -> None:
    """Raise ValueError if a table has more rows on one device than int32 can number."""
    for table in tables:
        rows = placement.capacity(table.vocabulary_size)
        if rows > _MAX_RECORDS:
            raise ValueError(
                f"table {table.name!r}: {rows} of its {table.vocabulary_size} rows on one device are more "
                f"than it can number ({_MAX_RECORDS}); split the table, or use more devices"
            )


_StackKey = tuple[int, Optimizer | None, QuantizationConfig | None, int]


def build_stacks(
    tables: tuple[Table, ...],
    kind: DeviceKind,
    taken_sizes: Iterable[int] = (),
    placement: Placement | None = None,
) -> tuple[StackLayout, ...]:
    """Group tables into stacks and lay out their arrays.

    Args:
        tables: in checkpoint order.
        kind: what the programs are compiled for.
        taken_sizes: numbers of elements of other persistent arrays of this process. XLA pairs donated
            buffers with outputs by byte size, so two arrays of one size may be swapped, which costs a
            copy of both at every step; extra rows keep all sizes distinct.
        placement: how the tables are shared among devices; each has room for its share of the rows.

    Raises:
        ValueError: a table has more rows than int32 can number.
    """
    groups: dict[_StackKey, list[int]] = {}
    sizes: dict[_StackKey, int] = {}
    placement = placement or Placement()
    check_sizes(tables, placement)
    rows_of = [placement.capacity(table.vocabulary_size) for table in tables]
    for index, table in enumerate(tables):
        rule = table.optimizer.rule() if table.optimizer is not None else None
        part = 0  # a stack that is full is followed by another of the same kind
        rounding = table.config.quantization_config
        while sizes.get((table.dim, rule, rounding, part), 0) + rows_of[index] > _MAX_RECORDS:
            part += 1
        key = (table.dim, rule, rounding, part)
        groups.setdefault(key, []).append(index)
        sizes[key] = sizes.get(key, 0) + rows_of[index]
    taken = set(taken_sizes)
    stacks = []
    for (dim, rule, rounding, _), members in groups.items():
        first_records, next_record = [], 0
        for index in members:
            first_records.append(next_record)
            next_record += rows_of[index]
        slots = (
            {name: rule.slot_width(name, dim) for name in rule.slot_variable_names} if rule else {}
        )
        arrays = []
        for fields in record_arrays(kind, dim, slots):
            widths = tuple(slots.get(name, dim) for name in fields)
            is_vector = kind == "TPU" and widths == (1,) and dim > 1
            width, per_row = (1, 1) if is_vector else record_lanes(kind, sum(widths))
            step = _VECTOR_STEP if is_vector else _ROW_STEP
            rows = -(-(next_record + 1) // per_row)  # one more record: the padding record
            rows = -(-rows // step) * step
            while rows * width * per_row in taken:
                rows += step
            taken.add(rows * width * per_row)
            fields_have_rows = (
                gives_fields_rows(kind, widths) and rows * len(fields) <= _MAX_RECORDS
            )
            arrays.append(
                ArrayLayout(fields, widths, width, per_row, rows, is_vector, fields_have_rows)
            )
        stacks.append(
            StackLayout(
                tuple(members),
                tuple(first_records),
                dim,
                rule,
                next_record,
                tuple(arrays),
                rounding,
                kind,
            )
        )
    return tuple(stacks)

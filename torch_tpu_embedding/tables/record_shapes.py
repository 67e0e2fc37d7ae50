"""The fields that share an array, and the lanes that a record of them takes.

Letter: D dim.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..config.resolved import WEIGHT
from ..runtime import DeviceKind

LANES = 128  # of a TPU vector register; the HBM tile of 4-byte types is 8 x 128
_FIELD_ROW_WIDTH = 64  # lanes; docs/lab/performance.md has the times


def record_arrays(
    kind: DeviceKind,
    dim: int,
    slots: Mapping[str, int],
    weight_lanes: int | None = None,
    slot_lanes: int | None = None,
) -> list[tuple[str, ...]]:
    """The fields of each array: a pure function of the device kind, the dim and the slots' widths.

    Args:
        slots: name → numbers a row.
        weight_lanes: lanes of the weights; None for D.
        slot_lanes: lanes of a slot of D numbers a row; None for D.

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
    of_weight, of_slot = weight_lanes or dim, slot_lanes or dim

    def width(fields: tuple[str, ...]) -> int:
        return sum(of_weight if name == WEIGHT else of_slot for name in fields)

    def lanes(arrays: list[tuple[str, ...]]) -> int:
        return sum(record_lanes(kind, width(fields))[0] for fields in arrays)

    slots_alone: list[tuple[str, ...]] = [(WEIGHT,), wide]
    if wide and (width(wide) <= LANES or lanes(slots_alone) <= lanes(apart)):
        apart = slots_alone
    fits = width(together[0]) <= LANES
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
    """True if each field of a record is a physical row of its own.

    That saves a pass in which XLA:CPU puts the changes of the fields side by side; for narrow rows it costs
    more than it saves. One gather still brings all fields, so the update depends on the read.
    """
    return kind == "CPU" and len(widths) > 1 and min(widths) == max(widths) >= _FIELD_ROW_WIDTH

"""The check of row kernels on the device at hand, before tables are trusted to them.

A kernel that does not end cannot be noticed here: `scripts/tpu_smoke.py --kernels` runs this check in a
process of its own, with a time limit.
Letters: P devices of a process, U records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import runtime
from ..distributed.calls import calling
from ..distributed.exchange import Exchange
from ..io.warn import warn_caller
from ..runtime import host
from ..runtime.modes import for_tables
from ..tables.layout import LANES, ArrayLayout
from .write_rows import BLOCK, write_marked_rows, write_records

_RECORDS = 4104
"""Records of the scratch arrays."""
_WRITTEN = 2 * BLOCK + 88
"""U: two whole blocks, and a part of one."""
_COUNTS = (_WRITTEN, BLOCK + 44, 0)


def kernels_work(exchange: Exchange, arrays: Sequence[ArrayLayout]) -> bool:
    """True if the kernels that these arrays need write the same bits as XLA's scatter, on all processes.

    Warns if they do not. A collective call.
    """
    fault = find_fault(exchange, arrays)
    with calling("TPUEmbedding()"):
        faults = exchange.group.gather_objects(fault)
    found = next((each for each in faults if each is not None), None)
    if found is not None:
        warn_caller(
            f"TPUEmbedding: rows are written by XLA's scatter-add, not by row kernels, for {found}; "
            "row_kernels='off' leaves the check and this warning out"
        )
    return found is None


@for_tables
def find_fault(exchange: Exchange, arrays: Sequence[ArrayLayout]) -> str | None:
    """The first of the kernels' faults, as the end of a sentence; None if there is none."""
    ours = [array for array in arrays if array.written_by_kernel]
    widths = sorted({array.parts for array in ours if array.records_per_row == 1})
    narrow = any(array.records_per_row > 1 for array in ours)
    try:
        for rows in widths:
            for count in _COUNTS:
                if not _same(exchange, rows, count, _by_record):
                    return f"a kernel wrote other bits than the scatter (records of {rows * LANES} lanes)"
        if narrow and not _same(exchange, 1, BLOCK + 44, _by_mark):
            return "a kernel wrote other bits than the scatter (rows of several records)"
    except Exception as error:
        return f"a kernel failed: {type(error).__name__}: {error}"
    return None


def _by_record(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    write_records(array, record, values, count)


def _by_mark(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    place = torch.arange(len(record), dtype=torch.int32, device=record.device)
    write_marked_rows(array, torch.where(place < count, record, -1), values)


def _by_scatter(array: Tensor, record: Tensor, values: Tensor, count: int) -> None:
    rows = values.shape[1] // LANES
    first = record[:count] * rows
    there = torch.cat([first + row for row in range(rows)]).long()
    parts = values[:count].reshape(-1, rows, LANES).unbind(1)
    array.index_copy_(0, there, torch.cat(parts))


def _same(
    exchange: Exchange,
    rows: int,
    count: int,
    write: Callable[[Tensor, Tensor, Tensor, Tensor], None],
) -> bool:
    """True if a kernel and the scatter leave the same bits in arrays that began alike."""
    random = torch.Generator("cpu").manual_seed(17)  # the same on all processes

    def bits(*shape: int) -> Tensor:
        span = -(2**31), 2**31
        drawn = torch.randint(*span, shape, generator=random, dtype=torch.int64, device="cpu")
        return drawn.to(torch.int32).view(torch.float32)

    start = bits(_RECORDS * rows, LANES)
    order = torch.randperm(_RECORDS, generator=random, dtype=torch.int64, device="cpu")
    record, values = order[:_WRITTEN].to(torch.int32), bits(_WRITTEN, rows * LANES)
    devices, enter = exchange.local_devices, exchange.enter
    sent = [exchange.put(torch.cat([each] * devices)) for each in (record, values)]
    number = exchange.put(host.ints([count] * devices).to(torch.int32))
    found = []
    for by_kernel in (True, False):
        array = exchange.put(torch.cat([start] * devices))
        part = enter(array)
        if by_kernel:
            write(part, enter(sent[0]), enter(sent[1]), enter(number))
        else:
            _by_scatter(part, enter(sent[0]), enter(sent[1]), count)
        exchange.store(array, part)
        del part
        if runtime.is_accelerated(array.device):
            runtime.sync()
        found.append(exchange.fetch(array).view(torch.int32))
    return torch.equal(*found)

"""The check of row kernels on the device at hand, before tables are trusted to them.

A kernel that does not end cannot be noticed here: `scripts/tpu_smoke.py --kernels` runs this check in a
process of its own, with a time limit.
Letters: P devices of a process, U records, N lookups, R rows, S sums, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import runtime
from ..config.resolved import WEIGHT
from ..distributed.calls import calling
from ..distributed.exchange import Exchange
from ..io.warn import warn_caller
from ..runtime import host
from ..runtime.modes import for_tables
from ..tables.layout import ArrayLayout
from ..tables.record_shapes import LANES
from .sum_rows import DIMS, sum_rows
from .write_rows import BLOCK, write_marked_rows, write_records

_RECORDS = 4104
"""Records of the scratch arrays."""
_WRITTEN = 2 * BLOCK + 88
"""U: two whole blocks, and a part of one."""
_LOOKUPS, _SUMMED, _SUMS = 2 * BLOCK + 45, 600, 300
"""N, R and S of the sums; the last block is a part of one, and odd."""
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
    if runtime.backend() != "torch_xla":
        return f"{runtime.backend_name()}: torch_xla alone can call them"
    ours = [array for array in arrays if array.written_by_kernel]
    widths = sorted({array.parts for array in ours if array.records_per_row == 1})
    narrow = any(array.records_per_row > 1 for array in ours)
    dims = {array.widths[0] for array in ours if array.fields[0] == WEIGHT}
    try:
        for rows in widths:
            for count in _COUNTS:
                if not _same(exchange, rows, count, _by_record):
                    return f"a kernel wrote other bits than the scatter (records of {rows * LANES} lanes)"
        if narrow and not _same(exchange, 1, BLOCK + 44, _by_mark):
            return "a kernel wrote other bits than the scatter (rows of several records)"
        for dim in sorted(dims):
            if dim in DIMS and not _sums_same(exchange, dim):
                return f"a kernel summed otherwise than the scatter (rows of {dim} numbers)"
    except Exception as error:
        return f"a kernel failed: {type(error).__name__}: {error}"
    return None


def _by_record(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    write_records(array, record, values, count)


def _by_mark(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    position = torch.arange(len(record), dtype=torch.int32, device=record.device)
    write_marked_rows(array, torch.where(position < count, record, -1), values)


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


def _sums_same(exchange: Exchange, dim: int) -> bool:
    """True if the kernel and the scatter give the same sums, of numbers that add up exactly."""
    random = torch.Generator("cpu").manual_seed(23)  # the same on all processes

    def draw(low: int, high: int, *shape: int) -> Tensor:
        span = low, high
        return torch.randint(*span, shape, generator=random, dtype=torch.int32, device="cpu")

    rows = draw(-1000, 1000, _SUMMED, dim).float()
    source, segment = draw(0, _SUMMED, _LOOKUPS), draw(0, _SUMS, _LOOKUPS)
    segment[1::4] = segment[:-1:4]  # two in turn are added into one
    gain = draw(-4, 5, _LOOKUPS, 1).float() / 4
    devices, enter = exchange.local_devices, exchange.enter
    sent = [exchange.put(torch.cat([each] * devices)) for each in (rows, source, segment, gain)]
    found = []
    for by_kernel in (True, False):
        ones = torch.ones(_SUMS, dim, dtype=torch.float32, device="cpu")
        array = exchange.put(torch.cat([ones] * devices))
        rows, source, segment, gain = map(enter, sent)
        sums = sum_rows(rows, source, segment, gain, _SUMS, by_kernel)
        exchange.store(array, sums)
        del sums
        if runtime.is_accelerated(array.device):
            runtime.sync()
        found.append(exchange.fetch(array))
    return torch.equal(*found)

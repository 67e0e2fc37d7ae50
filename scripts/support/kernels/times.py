#!/usr/bin/env python3
"""The row kernels on this machine's TPU: checked against XLA's scatter, then both timed. Prints JSON.

A process of its own, for a kernel that does not end can only be stopped from outside: scripts/tpu_smoke.py
--kernels runs it with a time limit. Without a TPU it says so, and times nothing.

Times are of whole programs on the host's clock, of several writes each, one after another in the same
array, less those of the same program with none: medians of several, as nanoseconds for each record.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.distributed.exchange import Local
from torch_tpu_embedding.kernels.choice import on_a_tpu
from torch_tpu_embedding.kernels.self_check import find_fault
from torch_tpu_embedding.kernels.sum_rows import sum_rows
from torch_tpu_embedding.kernels.write_rows import write_marked_rows, write_records
from torch_tpu_embedding.tables.layout import ArrayLayout
from torch_tpu_embedding.tables.record_shapes import LANES

RECORDS, ARRAY = 8192, 1 << 20
WRITES = 20
"""Writes in one program."""
ROUNDS = 15
WIDTHS = (1, 2, 3)
"""Rows of 128 lanes for each record."""
DIMS = (32, 64, 192)
"""D of rows that are summed."""


def main() -> None:
    """Run from the command line."""
    if not on_a_tpu():
        print(json.dumps({"fault": None, "skipped": "there is no TPU"}))
        return
    exchange = Local(tte.runtime.device())
    kinds = [
        ArrayLayout(("weight",), (LANES * rows,), LANES * rows, 1, 8, written_by_kernel=True)
        for rows in WIDTHS
    ]
    kinds.append(ArrayLayout(("weight",), (32,), 32, 4, 8, written_by_kernel=True))
    found: dict[str, Any] = {"fault": find_fault(exchange, kinds)}
    if found["fault"] is None:
        found["nanoseconds_a_record"] = {f"{rows} rows": measure(rows) for rows in WIDTHS}
        found["nanoseconds_a_record"]["marked rows"] = {"kernel": measure_one(1, by_mark)}
        found["nanoseconds_a_lookup"] = {
            f"D {dim}": {"kernel": measure_sums(dim, True), "scatter": measure_sums(dim, False)}
            for dim in DIMS
        }
    print(json.dumps(found))


Write = Callable[[Tensor, Tensor, Tensor], None]


def by_kernel(array: Tensor, record: Tensor, values: Tensor) -> None:
    """All records by the kernel."""
    count = torch.full((1,), RECORDS, dtype=torch.int32, device=array.device)
    write_records(array, record, values, count)


def by_mark(array: Tensor, record: Tensor, values: Tensor) -> None:
    """All rows by the kernel for marked rows."""
    write_marked_rows(array, record, values)


def by_scatter(array: Tensor, record: Tensor, values: Tensor) -> None:
    """All records by XLA's scatter-add, into an array with one row a record."""
    array.index_add_(0, record, values)


def measure(rows: int) -> dict[str, float]:
    """Nanoseconds a record of both ways."""
    return {"kernel": measure_one(rows, by_kernel), "scatter": measure_one(rows, by_scatter)}


def measure_one(rows: int, write: Write) -> float:
    """Nanoseconds a record of one way."""
    device = tte.runtime.device()
    wide = write is by_scatter
    shape = (ARRAY, rows * LANES) if wide else (ARRAY * rows, LANES)
    array = tte.runtime.upload(torch.zeros(shape, dtype=torch.float32), device)
    records = [
        tte.runtime.upload(torch.randperm(ARRAY)[:RECORDS].int(), device) for _ in range(WRITES)
    ]
    values = tte.runtime.upload(torch.randn(RECORDS, rows * LANES), device)
    return nanoseconds(
        [partial(write, array, record, values) for record in records], array, RECORDS
    )


def measure_sums(dim: int, by_kernel: bool) -> float:
    """Nanoseconds a lookup of the sums of bags, by the kernel or by XLA."""
    device = tte.runtime.device()
    lookups, bags = 2 * RECORDS, RECORDS // 2
    rows, gain = torch.randn(RECORDS, dim), torch.ones(lookups, 1)
    source = torch.randint(0, RECORDS, (lookups,), dtype=torch.int32)
    bag = torch.arange(lookups, dtype=torch.int32) // 4
    sent = [tte.runtime.upload(each, device) for each in (rows, source, bag, gain)]
    total = tte.runtime.upload(torch.zeros(bags, dim), device)

    def add() -> None:
        # by the last result, or all of a program's sums would be one; too small to change a number
        taken = [sent[0] + total[:1] * 1e-30, *sent[1:]]
        total.add_(sum_rows(*taken, bags, by_kernel))

    return nanoseconds([add] * WRITES, total, lookups)


def nanoseconds(calls: Sequence[Callable[[], None]], array: Tensor, count: int) -> float:
    """The time of a call, for each of `count` that it treats."""
    seconds: dict[int, list[float]] = {0: [], len(calls): []}
    for _ in range(ROUNDS + 2):
        for number, times in seconds.items():
            start = time.perf_counter()
            for call in calls[:number]:
                call()
            array[:1] += 1.0  # a program in both cases
            tte.runtime.sync(wait=True)
            times.append(time.perf_counter() - start)
    many, none = (statistics.median(times[2:]) for times in (seconds[len(calls)], seconds[0]))
    return round((many - none) / len(calls) / count * 1e9, 2)


if __name__ == "__main__":
    main()

"""Some sides of scripts/bench.py in one process, in turn, on one workload with one optimizer.

Letters: B batch, D dim, N ids, U unique rows.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from support.bench_peers import SIDES
from support.machine import describe_machine
from support.peers.side import ALL_CORES, SLOT_FLOATS, Side, Unavailable
from support.workloads import MORE_WORKLOADS, WORKLOADS, Workload
from torch import Tensor
from tqdm import tqdm

import torch_tpu_embedding as tte
from torch_tpu_embedding import runtime

BATCHES = 8
"""The number of different batches, which return; the warm-up sees all."""
SLOW_ROUNDS = 3
CHECKED_ROWS = 256
TOLERANCE = 1e-4
COPIED = 1 << 29
"""Bytes of the array whose copies are timed: more than a processor's caches hold."""


@dataclass(frozen=True)
class Series:
    """The measurements of one process: a workload, an optimizer, and the sides that take turns."""

    workload: str
    optimizer: str
    sides: tuple[str, ...]
    rounds: int
    steps: int
    """Steps of a side in a round."""
    warm_up: int
    seed: int = 0
    batch_size: int | None = None
    cap: int | None = None
    """Rows of a table, at most."""

    def resolve(self) -> Workload:
        """The workload with these settings."""
        return resolve(self.workload, self.batch_size, self.cap)


def resolve(name: str, batch_size: int | None, cap: int | None) -> Workload:
    """A workload by name, made smaller if asked."""
    work = (WORKLOADS | MORE_WORKLOADS)[name]
    if batch_size is not None:
        work = replace(work, batch_size=batch_size)
    return work if cap is None else work.capped(cap)


def table_bytes(work: Workload, optimizer: str) -> int:
    """Bytes of weights and slots."""
    sizes = zip(work.rows, work.dims, strict=True)
    return sum(4 * rows * (dim + SLOT_FLOATS[optimizer](dim)) for rows, dim in sizes)


def measure(series: Series) -> dict[str, Any]:
    """Run a series.

    Returns:
        settings, machine, counts of the workload, the number of cores that other processes used in each
        round (without the error of the system's coarse clock), and of each side: its samples (milliseconds
        of whole steps and of their phases, by round; the mean of the round if the side does not wait), and
        the comparison of its tables with ours after the warm-up.
    """
    work = series.resolve()
    bandwidth = copy_bandwidth()
    draw = work.batches(series.seed)
    batches = [draw() for _ in range(BATCHES)]
    del draw
    sides: dict[str, Side] = {}
    absent: dict[str, str] = {}
    for name in tqdm(series.sides, desc="tables", leave=False):
        torch.set_num_threads(SIDES[name].threads)
        try:
            sides[name] = SIDES[name](work, series.optimizer)
        except Unavailable as reason:
            absent[name] = str(reason)
    for name, side in sides.items():
        for number in tqdm(range(series.warm_up), desc=f"warm-up: {name}", leave=False):
            timed_step(side, batches[number % BATCHES])
    checked = check(sides, work)
    compiled = runtime.compile_count()
    samples: dict[str, list[list[dict[str, float]]]] = {name: [] for name in sides}
    others: list[float] = []
    gc.collect()
    for number in tqdm(range(series.rounds), desc=f"{work.name}, {series.optimizer}", leave=False):
        began = busy_seconds()
        names = list(sides)
        first = number % len(names)
        for name in names[first:] + names[:first]:  # everyone is first now and then
            if sides[name].slow and number >= SLOW_ROUNDS:
                continue
            samples[name].append(
                timed_turn(sides[name], batches, number * series.steps, series.steps)
            )
        mine, all_seconds, wall = (b - a for a, b in zip(began, busy_seconds(), strict=True))
        others.append(max(0.0, all_seconds - mine - 3 / os.sysconf("SC_CLK_TCK")) / wall)
    return {
        "settings": asdict(series),
        "machine": {
            **describe_machine(),
            "xla_device": runtime.device_kind(),
            "xla_threads": ALL_CORES,
        },
        "copy_bytes_per_second": bandwidth,
        "counts": counts(work, series.optimizer, batches),
        "absent": absent,
        "others_cores": others,
        "compiled_after_warm_up": runtime.compile_count() - compiled,
        "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "sides": {
            name: {"threads": side.threads, "checked": checked[name], "rounds_ms": samples[name]}
            for name, side in sides.items()
        },
    }


def timed_turn(
    side: Side, batches: list[list[object]], first: int, steps: int
) -> list[dict[str, float]]:
    """Milliseconds of each step of a turn, or their mean if the side does not wait for each step."""
    steps = 1 if side.slow else steps
    times = [timed_step(side, batches[at % BATCHES]) for at in range(first, first + steps)]
    if side.waits:
        return times
    begin = time.perf_counter()
    side.finish()
    late = 1e3 * (time.perf_counter() - begin) / steps
    times = [{**each, "all": each["all"] + late, "finish": late} for each in times]
    # Which step of a turn waits for the others is chance: only their mean says something.
    return [{key: mean(each[key] for each in times) for key in times[0]}]


def timed_step(side: Side, batch: list[object]) -> dict[str, float]:
    """Milliseconds of one step, `all` and by phase."""
    torch.set_num_threads(side.threads)
    found: dict[str, float] = {}
    start = last = time.perf_counter()

    def lap(phase: str) -> None:
        nonlocal last
        now = time.perf_counter()
        found[phase] = 1e3 * (now - last)
        last = now

    side.step(batch, lap)
    return {"all": 1e3 * (time.perf_counter() - start), **found}


def check(sides: dict[str, Side], work: Workload) -> dict[str, dict[str, Any] | str]:
    """Compare the first rows of every table, which are drawn most, with ours."""
    found: dict[str, dict[str, Any] | str] = {}
    for name, side in sides.items():
        if name == "ours" or "ours" not in sides:
            found[name] = "what the others are compared with" if name == "ours" else "not compared"
            continue
        if side.differs:
            found[name] = f"not compared: {side.differs}"
            continue
        worst, moved = 0.0, False
        for table in range(len(side.work.rows)):
            count = min(CHECKED_ROWS, side.work.rows[table])
            ours, theirs = sides["ours"].rows(table, count), side.rows(table, count)
            moved |= bool(ours.any())
            worst = max(worst, float(((ours - theirs).abs() / theirs.abs().clamp(min=1)).max()))
        found[name] = {"equal": moved and worst <= TOLERANCE, "largest_difference": worst}
    return found


def counts(work: Workload, optimizer: str, batches: list[list[object]]) -> dict[str, float]:
    """Ids and bytes that a step asks for, and bytes that it must touch at least; means over the batches."""
    asked = asked_bytes = unique = record_bytes = 0.0
    for batch in batches:
        by_table: dict[int, list[Tensor]] = {}
        for each, value in zip(work.inputs, batch, strict=True):
            ids = value.values if isinstance(value, tte.Ragged) else value
            assert isinstance(ids, Tensor)
            by_table.setdefault(each.table, []).append(ids)
        for table, several in by_table.items():
            dim = work.dims[table]
            flat = torch.cat(several)
            rows = len(torch.unique(flat))
            asked += len(flat) / len(batches)
            asked_bytes += 4 * dim * len(flat) / len(batches)
            unique += rows / len(batches)
            record_bytes += 4 * (dim + SLOT_FLOATS[optimizer](dim)) * rows / len(batches)
    width = sum((each.ids if each.sequence else 1) * work.dims[each.table] for each in work.inputs)
    activation_bytes = 4 * work.batch_size * width
    return {
        "ids": asked,
        "bytes_requested": asked_bytes,
        "unique_rows": unique,
        "unique_bytes": record_bytes,
        "activation_bytes": activation_bytes,
        "least_bytes": 2 * record_bytes + 2 * activation_bytes,
        "table_bytes": table_bytes(work, optimizer),
    }


def copy_bandwidth() -> float:
    """Bytes read and written in a second by torch's copy of a large array, with all cores."""
    torch.set_num_threads(ALL_CORES)
    source, target = torch.ones(COPIED // 4), torch.zeros(COPIED // 4)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * COPIED / statistics.median(times)


def busy_seconds() -> tuple[float, float, float]:
    """Processor time of this process, of all that runs on the machine, and the clock, in seconds."""
    own = os.times()
    user, nice, system, _, _, irq, soft, steal = (
        int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    everyone = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return own.user + own.system, everyone, time.perf_counter()

"""Thread time of a step's phases, traced and replayed in turn within one process."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

from support.bench_series import counts, resolve
from support.host.case import Case
from support.host.model import model_of_host
from tqdm import tqdm

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime.phases import collect_times, phase
from torch_tpu_embedding.runtime.torch_xla.device import wait_for_device

INPUT = ("parse", "dedup", "buffers", "upload", "enqueue, other")
"""Phases of `enqueue`, which an EmbeddingLoader's thread does."""
STEP = (
    "dequeue", "model", "backward", "dense optimizer", "apply", "sync", "replay", "step, other",
)  # fmt: skip
"""Phases of the step itself, which the main thread does."""
SAME = {"exchange": "dedup", "send": "upload", "lookup": "dequeue", "update": "apply"}
"""Phases of the package that are counted with another."""
SIDES = ("traced", "replayed")

Times = dict[str, float]


def timed_step(case: Case) -> tuple[Times, bool]:
    """Milliseconds of thread time of each phase of a step; and True if it was replayed."""
    nanoseconds: dict[str, int] = {}
    with collect_times(nanoseconds, time.thread_time_ns):
        with phase("enqueue, other"):
            case.enqueue()
        with phase("step, other"):
            replayed = case.step()
    wait_for_device()
    found = dict.fromkeys((*INPUT, *STEP), 0.0)
    for name, value in nanoseconds.items():
        found[SAME.get(name, name)] += value / 1e6
    found["loader thread"] = sum(found[name] for name in INPUT)
    found["main thread"] = sum(found[name] for name in STEP)
    return found, replayed


def measure(name: str, optimizer: str, args: Any) -> dict[str, Any]:
    """Measure one workload with one optimizer.

    Args:
        args: `cap`, `batch_size`, `warm_up`, `rounds` and `steps` of the command line.

    Returns:
        names, counts of ids and rows of a batch, of each side the medians of all phases in milliseconds
        and every sample of the two threads, and what `model_of_host` makes of it.
    """
    work = resolve(name, args.batch_size, args.cap)
    cases = {side: Case(work, optimizer, side == "replayed") for side in SIDES}
    for side, case in cases.items():
        for _ in tqdm(range(args.warm_up), desc=f"warm-up: {name}, {side}", leave=False):
            timed_step(case)
    samples: dict[str, list[Times]] = {side: [] for side in SIDES}
    checks = 0
    compiled = tte.runtime.compile_count()
    gc.collect()
    for _ in tqdm(range(args.rounds), desc=f"{name}, {optimizer}", leave=False):
        for side, case in cases.items():
            # A replayed step after somebody else's traced one makes sure that no memory is shared; a
            # training loop has no such step, so the first one of a turn is left out.
            timed_step(case)
            for _ in range(args.steps):
                times, replayed = timed_step(case)
                if replayed == (side == "replayed"):
                    samples[side].append(times)
                else:
                    checks += 1
    if not samples["replayed"]:
        assert cases["replayed"].replay is not None
        raise RuntimeError(f"{name}: no step was replayed: {cases['replayed'].replay.reason}")
    case = cases["traced"]
    counted = counts(work, optimizer, case.batches)
    sides = {side: summarize(found) for side, found in samples.items()}
    return {
        "workload": name,
        "optimizer": optimizer,
        "batch_size": work.batch_size,
        "ids": counted["ids"],
        "unique_rows": counted["unique_rows"],
        "sides": sides,
        "ratio": sides["traced"]["median_ms"]["main thread"]
        / sides["replayed"]["median_ms"]["main thread"],
        "checks_left_out": checks,
        "compiled_after_warm_up": tte.runtime.compile_count() - compiled,
        "modelled": {
            side: model_of_host(work.batch_size, counted["ids"], each["median_ms"], args.chip)
            for side, each in sides.items()
        },
    }


def summarize(samples: list[Times]) -> dict[str, Any]:
    """Medians of all phases; and all samples of the two threads."""
    return {
        "steps": len(samples),
        "median_ms": {
            name: statistics.median(each[name] for each in samples) for name in samples[0]
        },
        "samples_ms": {
            name: [round(each[name], 4) for each in samples]
            for name in ("loader thread", "main thread")
        },
    }

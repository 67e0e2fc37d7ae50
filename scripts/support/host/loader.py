"""Does the loader hide the host? Steps with an EmbeddingLoader beside each part alone, by the clock."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from support.bench_series import resolve
from support.host.case import Case
from tqdm import tqdm

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime.torch_xla.device import wait_for_device
from torch_tpu_embedding.training.call_order import Queued

PARTS = ("main thread", "loader thread", "device")
BAR = 1.1
REFILL = 1.0
"""Seconds in which the loader's thread fills its queue again."""


class Alone:
    """Each part of a replayed step for itself, and the step with the loader; milliseconds a step."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._steps = case.embedding._steps
        # All of them: the rows of one batch alone would stay in the caches of a CPU.
        sent = [self._steps.prepare(batch, None, True).sent for batch in case.batches]
        self._next_sent = itertools.cycle(sent).__next__
        self._draw = itertools.cycle(case.batches).__next__
        self._loader = tte.EmbeddingLoader(iter(self._draw, None), case.embedding)
        self.running = iter(self._loader)

    def _again(self) -> None:
        """A step on the next of the batches, which were sent before."""
        self._steps.enqueue_prepared(Queued(self._next_sent(), True), None)
        self._case.step()

    def main(self, steps: int) -> float:
        """The main thread's own time, with nothing in flight."""
        times = []
        for _ in range(steps):
            begin = time.thread_time()
            self._again()
            times.append(time.thread_time() - begin)
            wait_for_device()
        return 1e3 * statistics.median(times)  # a step that is traced as a check is no part of it

    def loader(self, steps: int) -> float:
        """Checking, deduplicating and sending, on this thread."""
        return clocked(lambda: self._steps.prepare(self._draw(), None, True), steps, lambda: None)

    def device(self, steps: int) -> float:
        """Steps one behind the other, until the device has finished."""
        return clocked(self._again, steps, wait_for_device)

    def together(self, steps: int) -> float:
        """Steps with the loader in its thread."""

        def step() -> None:
            next(self.running)
            self._case.step()

        for _ in range(self._loader.depth + 1):  # use up the batches that waited
            step()
        wait_for_device()
        found = clocked(step, steps, wait_for_device)
        time.sleep(REFILL)  # so that its thread does not work while others are measured
        return found


def clocked(step: Callable[[], object], steps: int, finish: Callable[[], object]) -> float:
    """Milliseconds of a step by the clock, as a mean over some that `finish` waits for."""
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    finish()
    return 1e3 * (time.perf_counter() - begin) / steps


def measure_loader(name: str, optimizer: str, args: Any) -> dict[str, Any]:
    """Measure one workload with one optimizer.

    Args:
        args: `cap`, `batch_size`, `warm_up`, `rounds` and `steps` of the command line.

    Returns:
        names; of each part and of the step with the loader the median in milliseconds; and `to_larger`,
        the median over the rounds of the step with the loader in multiples of the largest part.
    """
    case = Case(resolve(name, args.batch_size, args.cap), optimizer, replayed=True)
    assert case.replay is not None
    for _ in tqdm(range(args.warm_up), desc=f"warm-up: {name}", leave=False):
        case.enqueue()
        case.step()
    wait_for_device()
    alone = Alone(case)
    kinds = dict(
        zip(
            (*PARTS, "with the loader"),
            (alone.main, alone.loader, alone.device, alone.together),
            strict=True,
        )
    )
    time.sleep(REFILL)
    for run in kinds.values():
        run(2)
    rounds: list[dict[str, float]] = []
    for _ in tqdm(range(args.rounds), desc=f"loader: {name}", leave=False):
        times = {kind: run(args.steps) for kind, run in kinds.items()}
        rounds.append(
            {**times, "to_larger": times["with the loader"] / max(times[k] for k in PARTS)}
        )
    alone.running.close()  # type: ignore[attr-defined]
    medians = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    ratio = medians.pop("to_larger")
    return {
        "workload": name,
        "optimizer": optimizer,
        "batch_size": case.work.batch_size,
        "median_ms": medians,
        "to_larger": ratio,
        "bar": BAR,
        "rounds_ms": rounds,
    }

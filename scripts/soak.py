#!/usr/bin/env python3
"""Does a long training run through EmbeddingLoader, ended and begun again at random, leak or lose anything?

A tiny model trains on ragged batches. Each iteration over the data has a random length and ends at random:
with the data, by `break` (before a batch was dequeued, or after its step), by an exception in the loop, by
one in the data, by a batch that is refused, or in the middle and is resumed there by another loader
through `state_dict`. At the end:

  memory    resident memory in the last tenth of the steps, against its median in the second thousand
            (or the second tenth, if that is later)
  threads   after each iteration no thread of the loader is left; and at the end the process has no more
            threads than in the middle
  tables    equal to the tables of a float64 emulation of the same steps in numpy. Ten more emulations lose
            one update each; equal means: ten times closer than the closest of these. Without --pipelined
            the tables also equal, bit for bit, tables trained by traced steps through `enqueue`,
            without a thread

Exits with 1 if one of them fails, and writes its findings as JSON.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("PJRT_DEVICE", "CPU")

import numpy as np
import torch
from support.command_line import make_parser
from support.machine import resident
from support.paths import output_file
from support.soak.checks import failures, tell
from support.soak.emulation import RATE, B, D, Samples, State, emulate
from tqdm import tqdm

import torch_tpu_embedding as tte

V = 200
LOST = 10
"""The number of emulations that lose one update each."""
ENDS = ("end", "break before", "break after", "exception", "data", "refused", "resume")
NO_STEP = -1
"""An entry of the log: held updates are applied."""

Step = Callable[[], object]


class DataError(Exception):
    """Raised by the data."""


class LoopError(Exception):
    """Raised in the loop."""


class Data:
    """Batches first … first + count - 1; the one numbered `bad` is refused, or cannot be read."""

    def __init__(
        self, first: int, count: int, bad: int | None = None, refused: bool = False
    ) -> None:
        self.first, self.count, self.bad, self.refused = first, count, bad, refused

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(self.first, self.first + self.count):
            features = batch_of(number)
            if number == self.bad:
                if not self.refused:
                    raise DataError(number)
                features["dense"] = torch.full((B,), V)
            yield number, features


def batch_of(number: int) -> dict[str, Any]:
    """Few ids, so that neighbouring batches share rows."""
    generator = torch.Generator().manual_seed(number)
    lengths = torch.randint(0, 4, (B,), generator=generator)
    ids = torch.randint(0, V, (int(lengths.sum()),), generator=generator)
    dense = torch.randint(0, V, (B,), generator=generator)
    return {"bags": tte.Ragged.from_lengths(ids, lengths), "dense": dense}


def make(pipelined: bool) -> tte.TPUEmbedding:
    """Two features of one table."""
    table = tte.TableConfig(V, D, name="a", combiner="sum")
    config = {"bags": tte.FeatureConfig(table), "dense": tte.FeatureConfig(table)}
    return tte.TPUEmbedding(
        config, B, tte.Adagrad(RATE), seed=0, pipeline_execution_with_tensor_core=pipelined
    )


def step(embedding: tte.TPUEmbedding) -> None:
    """One step on the batch that waits, not ended."""
    activations = embedding.dequeue()
    sum((each - 1).square().sum() for each in activations.values()).backward()
    embedding.apply_gradients()


def step_of(embedding: tte.TPUEmbedding, replayed: bool) -> Step:
    """A function that takes a whole step on the batch that waits."""
    if replayed:
        return tte.replay(lambda: step(embedding), embedding)

    def traced() -> None:
        step(embedding)
        tte.runtime.sync()

    return traced


def iterate(
    embedding: tte.TPUEmbedding, train: Step, first: int, count: int, end: str, log: list[int]
) -> int:
    """Train on some batches through a loader; gives the number of the next batch."""
    stop = first + count // 2
    bad = stop if end in ("data", "refused") else None

    def loader_of() -> tte.EmbeddingLoader:
        data = Data(first, count, bad, refused=end == "refused")
        return tte.EmbeddingLoader(data, embedding, features=lambda batch: batch[1])

    loader = loader_of()
    try:
        for number, _ in loader:
            if end == "break before" and number == stop:
                return number
            train()
            log.append(number)
            if number == stop and end == "exception":
                raise LoopError(number)
            if number == stop and end in ("break after", "resume"):
                break
        else:
            log.append(NO_STEP)
    except (DataError, LoopError):
        pass
    except ValueError as error:
        if end != "refused" or "outside [0," not in str(error):
            raise
    if end == "resume":
        again = loader_of()
        again.load_state_dict(loader.state_dict())
        for number, _ in again:
            train()
            log.append(number)
        log.append(NO_STEP)
    return first + count


def train_again(embedding: tte.TPUEmbedding, log: Sequence[int]) -> None:
    """Train on the batches of a log again, without a thread."""
    train = step_of(embedding, replayed=False)
    for number in tqdm(log, desc="again, without a thread", disable=None):
        if number == NO_STEP:
            embedding.flush()
            continue
        embedding.enqueue(batch_of(number))
        train()


def samples_of(number: int) -> Samples | None:
    """A batch's distinct ids, and for each lookup its position among them and its row of activations."""
    if number == NO_STEP:
        return None
    batch = batch_of(number)
    lengths = np.diff(batch["bags"].row_splits.numpy())
    looked_up = np.concatenate([batch["bags"].values.numpy(), batch["dense"].numpy()])
    of_sample = np.concatenate([np.repeat(np.arange(B), lengths), np.arange(B, 2 * B)])
    ids, of_id = np.unique(looked_up, return_inverse=True)
    return ids, (of_id, of_sample)


def state_of(embedding: tte.TPUEmbedding) -> State:
    """Weights and accumulators, after held updates are applied."""
    state = embedding.state_dict()
    return state["a.weight"].numpy(), state["a.accumulators"].numpy()


def difference(one: State, other: State) -> float:
    """The largest relative difference of the accumulators, in which an update never fades."""
    return float(np.abs((one[1] - other[1]) / other[1]).max())


def loader_threads() -> int:
    """How many threads of loaders there are."""
    return sum(thread.name == "EmbeddingLoader" for thread in threading.enumerate())


@dataclass
class Soak:
    """Records of a long training."""

    log: list[int] = field(default_factory=list)
    """Numbers of the batches in the order of their steps, and NO_STEP."""
    ends: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[int, int]] = field(default_factory=list)
    """The number of steps and the resident memory after each iteration."""
    loader_threads: int = 0
    """Threads of loaders that were left after an iteration, over all iterations."""
    early_threads: int = 0
    """Threads of the process in the middle of the training."""
    late_threads: int = 0
    """Threads of the process at the end."""

    @property
    def steps(self) -> int:
        """The number of steps trained."""
        return len(self.log) - self.log.count(NO_STEP)

    def growth(self, steps: int) -> tuple[float, float]:
        """Resident memory in the second thousand of `steps`, or the second tenth, and in the last tenth."""
        warm = max(min(1000, steps // 3), steps // 10)
        before = statistics.median(size for at, size in self.memory if warm < at <= 2 * warm)
        return before, statistics.median(size for at, size in self.memory if at > steps * 0.9)


def soak(
    embedding: tte.TPUEmbedding, train: Step, steps: int, longest: int, rng: random.Random
) -> Soak:
    """Train for a number of steps, in iterations of random lengths that end at random."""
    found, following = Soak(), 0
    with tqdm(total=steps, disable=None) as progress:
        while found.steps < steps:
            end = rng.choice(ENDS)
            count = rng.randint(1, longest)
            following = iterate(embedding, train, following, count, end, found.log)
            found.ends[end] += 1
            found.loader_threads += loader_threads()
            progress.update(found.steps - progress.n)
            found.memory.append((found.steps, resident("VmRSS")))
            if found.steps < steps // 2:
                found.early_threads = len(os.listdir("/proc/self/task"))
    found.late_threads = len(os.listdir("/proc/self/task"))
    return found


def compare_tables(
    begun: State, state: State, log: list[int], pipelined: bool, rng: random.Random
) -> dict[str, Any]:
    """Compare tables with emulations of the same steps: one of all updates, others that lose one."""
    batches = [samples_of(number) for number in log]
    exact = emulate(begun, batches, pipelined, NO_STEP)
    error = difference(state, exact)
    trained = [at for at, number in enumerate(log) if number != NO_STEP]
    without = [
        difference(emulate(begun, batches, pipelined, lost), exact)
        for lost in tqdm(rng.sample(trained, LOST), desc="with an update lost", disable=None)
    ]
    equal = error < min(without) / 10
    if not pipelined:
        other = make(False)
        train_again(other, log)
        equal &= all(map(np.array_equal, state, state_of(other)))
    return {
        "tables_equal": bool(equal),
        "error_against_float64": error,
        "error_of_one_lost_update": [min(without), max(without)],
    }


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--steps", type=int, default=20_000, help="steps in all")
    add("--longest", type=int, default=80, help="batches of an iteration, at most")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--pipelined", action="store_true", help="with pipelined execution")
    text = "with steps that run again from their compiled program (tte.replay)"
    way.add_argument("--replay", action="store_true", help=text)
    add("--seed", type=int, default=0, help="of lengths and ends")
    add("--json", type=output_file, metavar="FILE", help="write the report to a file, too")
    args = parser.parse_args()
    if args.steps < 3 * args.longest:  # memory is compared between iterations
        parser.error(f"--steps {args.steps} is less than three times --longest {args.longest}")
    return args


def main() -> int:
    """Run from the command line."""
    args = parse_args()
    rng = random.Random(args.seed)
    embedding = make(args.pipelined)
    begun = state_of(embedding)
    start = time.perf_counter()
    train = step_of(embedding, args.replay)
    found = soak(embedding, train, args.steps, args.longest, rng)
    seconds, compiles = time.perf_counter() - start, tte.runtime.compile_count()
    state, steps = state_of(embedding), found.steps
    found.log.append(NO_STEP)  # state_dict flushes
    tables = compare_tables(begun, state, found.log, args.pipelined, rng)
    before, after = found.growth(args.steps)
    report = {
        "steps": steps,
        "pipelined": args.pipelined,
        "replayed": train.replayed if isinstance(train, tte.Replay) else 0,
        "iterations": sum(found.ends.values()),
        "ends": dict(found.ends),
        "seconds": round(seconds, 1),
        "resident_mib_before": round(before / 2**20, 1),
        "resident_mib_after": round(after / 2**20, 1),
        "growth": round(after / before - 1, 5),
        "loader_threads_left": found.loader_threads,
        "threads_before": found.early_threads,
        "threads_after": found.late_threads,
        **tables,
        "compiles": compiles,
    }
    return tell(report, failures(report), args.json)


if __name__ == "__main__":
    sys.exit(main())

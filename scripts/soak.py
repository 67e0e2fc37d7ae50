#!/usr/bin/env python3
"""Does a long training run through EmbeddingLoader, ended and begun again at random, leak or lose anything?

A tiny model trains on ragged batches. Each iteration over the data has a random length and ends at random:
with the data, by `break` (before a batch was dequeued, or after its step), by an exception in the loop, by
one in the data, by a batch that is refused, or in the middle and is resumed there by another loader
through `state_dict`. At the end:

  memory    resident memory in the last tenth of the steps, against its median in the second thousand
            (or the second tenth, if that is later)
  threads   none of the loader's is left, after each iteration; and the process has as many as it had then
  tables    equal to those of a float64 emulation of the same steps in numpy: closer to it than a tenth of
            what the least visible of ten emulations that lose one update each differs; without
            --pipelined also bit for bit those of the same batches through `enqueue`, without a thread

Exits with 1 if one of them fails, and writes what it found as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("PJRT_DEVICE", "CPU")

import numpy as np
import torch
from tqdm import tqdm

import torch_tpu_embedding as tte

B, V, D = 8, 200, 4
RATE = 0.01
GROWTH = 0.01
LOST = 10
"""Emulations that lose one update each."""
ENDS = ("end", "break before", "break after", "exception", "data", "refused", "resume")
NO_STEP = -1
"""In the log: the updates that were held back are applied."""

Array = np.ndarray[Any, Any]
State = tuple[Array, Array]
Samples = tuple[Array, tuple[Array, Array]]


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


def train(embedding: tte.TPUEmbedding) -> None:
    """One step on the batch that waits."""
    activations = embedding.dequeue()
    sum((each - 1).square().sum() for each in activations.values()).backward()
    embedding.apply_gradients()
    del activations
    tte.runtime.sync()


def iterate(embedding: tte.TPUEmbedding, first: int, count: int, end: str, log: list[int]) -> int:
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
            train(embedding)
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
            train(embedding)
            log.append(number)
        log.append(NO_STEP)
    return first + count


def replay(embedding: tte.TPUEmbedding, log: Sequence[int]) -> None:
    """The same steps without a thread."""
    for number in tqdm(log, desc="again, without a thread", disable=None):
        if number == NO_STEP:
            embedding.flush()
            continue
        embedding.enqueue(batch_of(number))
        train(embedding)


def emulate(start: State, batches: Sequence[Samples | None], pipelined: bool, lost: int) -> State:
    """The same steps in float64, but for the one numbered `lost`, whose update is dropped.

    With `pipelined` a step reads before the update of the step before it: read(k), apply(k - 1). None among
    the batches stands for a flush.
    """
    weight, accumulators = (each.astype(np.float64) for each in start)
    held: tuple[Array, Array] | None = None

    def apply(ids: Array, gradient: Array) -> None:
        accumulators[ids] += gradient**2
        weight[ids] -= RATE * gradient / np.sqrt(accumulators[ids])

    for number, samples in enumerate(batches):
        update = None
        if samples is not None:
            ids, (of_id, of_sample) = samples
            activations = np.zeros((2 * B, D))
            np.add.at(activations, of_sample, weight[ids[of_id]])
            gradient = np.zeros((len(ids), D))
            np.add.at(gradient, of_id, 2 * (activations - 1)[of_sample])
            update = None if number == lost else (ids, gradient)
        if held is not None:
            apply(*held)
        held = update if pipelined else None
        if update is not None and not pipelined:
            apply(*update)
    assert held is None, "the log of a pipelined run ends with a flush"
    return weight, accumulators


def samples_of(number: int) -> Samples | None:
    """A batch's distinct ids, and of each occurrence its place among them and the row of activations."""
    if number == NO_STEP:
        return None
    batch = batch_of(number)
    lengths = np.diff(batch["bags"].row_splits.numpy())
    occurrences = np.concatenate([batch["bags"].values.numpy(), batch["dense"].numpy()])
    of_sample = np.concatenate([np.repeat(np.arange(B), lengths), np.arange(B, 2 * B)])
    ids, of_id = np.unique(occurrences, return_inverse=True)
    return ids, (of_id, of_sample)


def state_of(embedding: tte.TPUEmbedding) -> State:
    """Weights and accumulators, with what was held back applied."""
    state = embedding.state_dict()
    return state["a.weight"].numpy(), state["a.accumulators"].numpy()


def difference(one: State, other: State) -> float:
    """The largest relative one of the accumulators: what an update adds there never fades."""
    return float(np.abs((one[1] - other[1]) / other[1]).max())


def resident_bytes() -> int:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def loader_threads() -> int:
    """How many threads of loaders there are."""
    return sum(thread.name == "EmbeddingLoader" for thread in threading.enumerate())


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--longest", type=int, default=80, help="batches of an iteration, at most")
    parser.add_argument("--pipelined", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    embedding = make(args.pipelined)
    begun = state_of(embedding)
    log: list[int] = []
    ends: Counter[str] = Counter()
    memory: list[tuple[int, int]] = []
    left, early_threads, steps, following = 0, 0, 0, 0
    start = time.perf_counter()
    progress = tqdm(total=args.steps, disable=None)
    while steps < args.steps:
        end = rng.choice(ENDS)
        following = iterate(embedding, following, rng.randint(1, args.longest), end, log)
        ends[end] += 1
        left += loader_threads()
        steps = len(log) - log.count(NO_STEP)
        progress.update(steps - progress.n)
        memory.append((steps, resident_bytes()))
        if steps < args.steps // 2:
            early_threads = len(os.listdir("/proc/self/task"))
    progress.close()
    seconds, native = time.perf_counter() - start, len(os.listdir("/proc/self/task"))
    compiles = tte.runtime.compile_count()
    state = state_of(embedding)
    log.append(NO_STEP)  # state_dict flushes
    batches = [samples_of(number) for number in log]
    exact = emulate(begun, batches, args.pipelined, NO_STEP)
    error = difference(state, exact)
    trained = [at for at, number in enumerate(log) if number != NO_STEP]
    without = [
        difference(emulate(begun, batches, args.pipelined, lost), exact)
        for lost in tqdm(rng.sample(trained, LOST), desc="with an update lost", disable=None)
    ]
    equal = error < min(without) / 10
    if not args.pipelined:
        other = make(False)
        replay(other, log)
        equal &= all(map(np.array_equal, state, state_of(other)))
    settled = max(min(1000, args.steps // 3), args.steps // 10)
    before = statistics.median(size for at, size in memory if settled < at <= 2 * settled)
    after = statistics.median(size for at, size in memory if at > args.steps * 0.9)
    report = {
        "steps": steps,
        "pipelined": args.pipelined,
        "iterations": sum(ends.values()),
        "ends": dict(ends),
        "seconds": round(seconds, 1),
        "resident_mib_before": round(before / 2**20, 1),
        "resident_mib_after": round(after / 2**20, 1),
        "growth": round(after / before - 1, 5),
        "loader_threads_left": left,
        "threads_before": early_threads,
        "threads_after": native,
        "tables_equal": bool(equal),
        "error_against_float64": error,
        "error_of_one_lost_update": [min(without), max(without)],
        "compiles": compiles,
    }
    print(json.dumps(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(after > before * (1 + GROWTH) or left > 0 or native > early_threads or not equal)


if __name__ == "__main__":
    sys.exit(main())

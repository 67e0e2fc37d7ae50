#!/usr/bin/env python3
"""Does a long training run through EmbeddingLoader, ended and begun again at random, leak or lose anything?

A tiny model trains on ragged batches. Each iteration over the data has a random length and ends at random:
with the data, by `break` (before a batch was dequeued, or after its step), by an exception in the loop, by
one in the data, by a batch that is refused, or in the middle and is resumed there by another loader
through `state_dict`. At the end:

  memory    resident memory in the last tenth of the steps, against its median in the second thousand
            (or the second tenth, if that is later)
  threads   none of the loader's is left, after each iteration; and the process has as many as it had then
  tables    equal to those of a run of the same batches through `enqueue`, without a thread: bit for bit, or
            with --pipelined to 1e-5, for a batch that is read ahead is read by another program

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

import torch

import torch_tpu_embedding as tte

B, V = 8, 200
GROWTH = 0.01
TOLERANCE = 1e-5
ENDS = ("end", "break before", "break after", "exception", "data", "refused", "resume")
NO_STEP = -1
"""In the log: the updates that were held back are applied."""


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
    table = tte.TableConfig(V, 4, name="a", combiner="sum")
    config = {"bags": tte.FeatureConfig(table), "dense": tte.FeatureConfig(table)}
    return tte.TPUEmbedding(
        config, B, tte.Adagrad(0.01), seed=0, pipeline_execution_with_tensor_core=pipelined
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
    for number in log:
        if number == NO_STEP:
            embedding.flush()
            continue
        embedding.enqueue(batch_of(number))
        train(embedding)


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
    log: list[int] = []
    ends: Counter[str] = Counter()
    memory: list[tuple[int, int]] = []
    left, early_threads, steps, following = 0, 0, 0, 0
    start = time.perf_counter()
    while steps < args.steps:
        end = rng.choice(ENDS)
        following = iterate(embedding, following, rng.randint(1, args.longest), end, log)
        ends[end] += 1
        left += loader_threads()
        steps = len(log) - log.count(NO_STEP)
        memory.append((steps, resident_bytes()))
        if steps < args.steps // 2:
            early_threads = len(os.listdir("/proc/self/task"))
    seconds, native = time.perf_counter() - start, len(os.listdir("/proc/self/task"))
    compiles = tte.runtime.compile_count()
    state = embedding.state_dict()
    other = make(args.pipelined)
    replay(other, log)
    wanted = other.state_dict()
    pairs = [(state[f"a.{name}"], wanted[f"a.{name}"]) for name in ("weight", "accumulators")]
    bits = all(torch.equal(*pair) for pair in pairs)
    difference = max(float(((one - other) / other).abs().max()) for one, other in pairs)
    equal = bits or (args.pipelined and difference < TOLERANCE)
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
        "tables_equal": equal,
        "bit_for_bit": bits,
        "largest_relative_difference": difference,
        "compiles": compiles,
    }
    print(json.dumps(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(after > before * (1 + GROWTH) or left > 0 or native > early_threads or not equal)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""How much does a background save slow training down?

One embedding with Adagrad trains with a dense head. Round after round: some steps alone, then
`checkpoint.save(..., asynchronous=True)` and steps for as long as it writes. Measured in each round:

  alone     median time of a step before the save
  during    median time of a step while the save writes, and its ratio to `alone`
  copy      how long the call itself takes: training stands still while rows are copied to the host

Medians over the rounds, as JSON. On XLA's CPU device writer, hashing and training share the cores, which
is the hard case: the writing threads have the least priority there is, and take longer instead.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("PJRT_DEVICE", "CPU")

import torch
from support.command_line import make_parser
from support.machine import describe_machine
from support.paths import output_file, work_folder
from tqdm import tqdm

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint, runtime

TABLES, D, B, HIDDEN = 4, 64, 4096, 512
WARM_UP = 10


def main() -> None:
    """Run from the command line."""
    args = parse_args()
    training = Training(args.rows)
    for number in range(WARM_UP):
        training.step(number)
    directory = Path(tempfile.mkdtemp(dir=args.directory))
    try:
        rounds = [
            one_round(training, directory, number, args.steps)
            for number in tqdm(range(args.rounds), disable=None)
        ]
    finally:
        shutil.rmtree(directory)
    report = {
        "bytes": TABLES * args.rows * D * 2 * 4,
        "machine": describe_machine(),
        "median_ms": {
            key: round(statistics.median(each[key] for each in rounds), 3) for key in rounds[0]
        },
        "rounds": rounds,
    }
    print(json.dumps(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--rows", type=int, default=200_000, help=f"rows of each of {TABLES} tables")
    add("--steps", type=int, default=25, help="steps before each save")
    add("--rounds", type=int, default=5, help="saves")
    add("--directory", type=work_folder, help="on the disk to try (default: a temporary one)")
    add("--json", type=output_file, metavar="FILE", help="write the report to a file, too")
    return parser.parse_args()


class Training:
    """One embedding of several tables with Adagrad, a dense head, and batches that return."""

    def __init__(self, rows: int) -> None:
        torch.manual_seed(0)
        features = [tte.FeatureConfig(tte.TableConfig(rows, D)) for _ in range(TABLES)]
        self.embedding = tte.TPUEmbedding(features, B, tte.Adagrad(0.05), seed=0)
        self.batches = [[torch.randint(0, rows, (B,)) for _ in features] for _ in range(4)]
        self.first = torch.randn(TABLES * D, HIDDEN).to(self.embedding.device)
        self.second = torch.randn(HIDDEN, HIDDEN).to(self.embedding.device)

    def step(self, number: int) -> float:
        """Train on a batch until the device has finished; returns the milliseconds."""
        start = time.perf_counter()
        self.embedding.enqueue(self.batches[number % len(self.batches)])
        joined = torch.cat(self.embedding.dequeue(), dim=1)
        torch.tanh(torch.tanh(joined @ self.first) @ self.second).mean().backward()
        self.embedding.apply_gradients()
        del joined
        runtime.sync(wait=True)
        return 1e3 * (time.perf_counter() - start)


def one_round(training: Training, directory: Path, number: int, steps: int) -> dict[str, float]:
    """Measure some steps alone, then the steps beside a save; times in milliseconds."""
    alone = statistics.median(training.step(n) for n in range(steps))
    start = time.perf_counter()
    handle = checkpoint.save(training.embedding, directory, number, asynchronous=True, keep_last=1)
    copy = 1e3 * (time.perf_counter() - start)
    times: list[float] = []
    while not handle.done():
        times.append(training.step(len(times)))
    handle.wait()
    during = statistics.median(times)
    return {
        "alone": alone,
        "during": during,
        "ratio": during / alone,
        "copy": copy,
        "steps": len(times),
    }


if __name__ == "__main__":
    main()

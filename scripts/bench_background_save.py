#!/usr/bin/env python3
"""What does a background save take from training?

One embedding with Adagrad trains with a dense head. Round after round: some steps alone, then
`checkpoint.save(..., asynchronous=True)` and steps for as long as it writes. Of each round

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
from support.machine import describe_machine
from tqdm import tqdm

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint, runtime

TABLES, D, B, HIDDEN = 4, 64, 4096, 512


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help=f"of each of {TABLES} tables")
    parser.add_argument("--steps", type=int, default=25, help="before each save")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--directory", type=Path, help="on the disk to try (default: a temporary one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.manual_seed(0)
    features = [tte.FeatureConfig(tte.TableConfig(args.rows, D)) for _ in range(TABLES)]
    embedding = tte.TPUEmbedding(features, B, tte.Adagrad(0.05), seed=0)
    batches = [[torch.randint(0, args.rows, (B,)) for _ in features] for _ in range(4)]
    first = torch.randn(TABLES * D, HIDDEN).to(embedding.device)
    second = torch.randn(HIDDEN, HIDDEN).to(embedding.device)

    def step(number: int) -> float:
        start = time.perf_counter()
        embedding.enqueue(batches[number % len(batches)])
        joined = torch.cat(embedding.dequeue(), dim=1)
        torch.tanh(torch.tanh(joined @ first) @ second).mean().backward()
        embedding.apply_gradients()
        del joined
        runtime.sync(wait=True)
        return 1e3 * (time.perf_counter() - start)

    for number in range(10):
        step(number)
    directory = Path(tempfile.mkdtemp(dir=args.directory))
    rounds = []
    for number in tqdm(range(args.rounds), disable=None):
        alone = statistics.median(step(n) for n in range(args.steps))
        start = time.perf_counter()
        handle = checkpoint.save(embedding, directory, number, asynchronous=True, keep_last=1)
        copy = 1e3 * (time.perf_counter() - start)
        times = []
        while not handle.done():
            times.append(step(len(times)))
        handle.wait()
        during = statistics.median(times)
        rounds.append(
            {
                "alone": alone,
                "during": during,
                "ratio": during / alone,
                "copy": copy,
                "steps": len(times),
            }
        )
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


if __name__ == "__main__":
    main()

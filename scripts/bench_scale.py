#!/usr/bin/env python3
"""Does a training step cost the same whatever the size of the table?

Builds one table for each vocabulary size, gives all of them the same ids, and times whole steps (enqueue,
dequeue, a small head, backward, apply_gradients, until the device has finished) in turn, so that a slow
moment of the machine hits all sizes. Prints the median step time of each size and the median, over the
rounds, of its ratio to the first size; --json writes every sample.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vocabularies", type=int, nargs="+", default=[1 << 20, 1 << 22, 1 << 24],
        help="table sizes in rows; the ids stay below the first",
    )  # fmt: skip
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8192, help="ids per step, one a sample")
    parser.add_argument("--optimizer", choices=["SGD", "Adagrad", "Adam"], default="Adagrad")
    parser.add_argument("--rounds", type=int, default=40, help="timed steps of each size")
    parser.add_argument("--warm-up", type=int, default=8, help="untimed steps of each size")
    parser.add_argument("--json", type=Path, help="file for settings and samples")
    args = parser.parse_args()
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    import torch
    from tqdm import tqdm

    import torch_tpu_embedding as tte

    torch.manual_seed(0)
    batches = [torch.randint(0, args.vocabularies[0], (args.batch_size,)) for _ in range(8)]
    head = torch.randn(args.dim).to(tte.runtime.device())
    optimizer = getattr(tte, args.optimizer)(0.05)
    embeddings = []
    for rows in tqdm(args.vocabularies, desc="tables", leave=False):
        table = tte.TableConfig(rows, args.dim, initializer=torch.zeros, name=f"rows_{rows}")
        embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], args.batch_size, optimizer)
        embedding.build()
        embeddings.append(embedding)

    def step(embedding: tte.TPUEmbedding, number: int) -> float:
        start = time.perf_counter()
        embedding.enqueue([batches[number % len(batches)]])
        (rows,) = embedding.dequeue()
        loss = ((torch.tanh(rows @ head) - 1) ** 2).mean()
        loss.backward()
        embedding.apply_gradients()
        del rows, loss
        tte.runtime.sync(wait=True)
        return 1e3 * (time.perf_counter() - start)

    for number in range(args.warm_up):
        for embedding in embeddings:
            step(embedding, number)
    compiled = tte.runtime.compile_count()
    samples: list[list[float]] = [[] for _ in embeddings]
    for number in tqdm(range(args.rounds), desc="rounds", leave=False):
        for held, embedding in zip(samples, embeddings, strict=True):
            held.append(step(embedding, number))
    print(f"{'rows':>12}  {'median ms':>9}  ratio to first")
    for rows, held in zip(args.vocabularies, samples, strict=True):
        ratio = statistics.median(a / b for a, b in zip(held, samples[0], strict=True))
        print(f"{rows:>12,}  {statistics.median(held):>9.2f}  {ratio:.3f}")
    print(f"compiles after warm-up: {tte.runtime.compile_count() - compiled}")
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items()}
        machine = {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "torch": torch.__version__,
        }
        result = {"settings": settings, "machine": machine, "milliseconds": samples}
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

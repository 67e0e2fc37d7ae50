#!/usr/bin/env python3
"""Does a training step cost the same, in time and memory, for tables of any size?

Builds one table for each vocabulary size, gives all of them the same ids, and times whole steps (enqueue,
dequeue, a small head, backward, apply_gradients, until the device has finished) in turn, so that a slow
moment of the machine hits all sizes. Prints the median step time of each size and the median, over the
rounds, of its ratio to the first size; --json writes every sample.

Memory: before that, a process for each size builds the table, takes the warm-up steps, which compile, and
as many again, during which it measures the peak of its resident memory. The rest of the peak, without the
bytes of weights and slots (most of it torch and XLA themselves), should not depend on the size. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from support.command_line import make_parser
from support.machine import describe_machine, reset_peak, resident
from support.paths import output_file


def main() -> None:
    """Run from the command line."""
    args = parse_args()
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    if args.memory_of_steps:
        print(json.dumps(memory_of_steps(args)))
        return
    memory = [measure_memory(args, rows) for rows in args.vocabularies]
    from tqdm import tqdm

    import torch_tpu_embedding as tte

    bench = Bench(args)
    for number in range(args.warm_up):
        for embedding in bench.embeddings:
            bench.step(embedding, number)
    compiled = tte.runtime.compile_count()
    samples: list[list[float]] = [[] for _ in bench.embeddings]
    for number in tqdm(range(args.rounds), desc="rounds", leave=False):
        for times, embedding in zip(samples, bench.embeddings, strict=True):
            times.append(bench.step(embedding, number))
    print(f"{'rows':>12}  {'median ms':>9}  ratio to first  {'table MB':>9}  MB beyond it")
    for rows, times, peak in zip(args.vocabularies, samples, memory, strict=True):
        ratio = statistics.median(a / b for a, b in zip(times, samples[0], strict=True))
        beyond = peak["peak_bytes"] - peak["table_bytes"]
        print(
            f"{rows:>12,}  {statistics.median(times):>9.2f}  {ratio:<14.3f}  "
            f"{peak['table_bytes'] / 1e6:>9.1f}  {beyond / 1e6:.1f}"
        )
    print(f"compiles after warm-up: {tte.runtime.compile_count() - compiled}")
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items()}
        result = {
            "settings": settings,
            "machine": describe_machine(),
            "milliseconds": samples,
            "memory": memory,
        }
        args.json.write_text(json.dumps(result, indent=1))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--vocabularies", type=int, nargs="+", default=[1 << 20, 1 << 22, 1 << 24],
        help="table sizes in rows; the ids stay below the smallest",
    )  # fmt: skip
    add("--dim", type=int, default=32, help="width of the tables")
    add("--batch-size", type=int, default=8192, help="ids per step, one a sample")
    text = "of the tables"
    add("--optimizer", choices=["SGD", "Adagrad", "Adam"], default="Adagrad", help=text)
    add("--rounds", type=int, default=40, help="timed steps of each size")
    add("--warm-up", type=int, default=8, help="untimed steps of each size")
    add("--json", type=output_file, metavar="FILE", help="write settings and samples")
    add("--memory-of-steps", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


class Bench:
    """Tables of all sizes, and the step."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        from tqdm import tqdm

        import torch_tpu_embedding as tte

        torch.manual_seed(0)
        smallest = min(args.vocabularies)
        self.batches = [torch.randint(0, smallest, (args.batch_size,)) for _ in range(8)]
        self.head = torch.randn(args.dim).to(tte.runtime.device())
        optimizer = getattr(tte, args.optimizer)(0.05)
        self.embeddings = []
        for rows in tqdm(args.vocabularies, desc="tables", leave=False):
            table = tte.TableConfig(rows, args.dim, initializer=torch.zeros, name=f"rows_{rows}")
            embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], args.batch_size, optimizer)
            embedding.build()
            self.embeddings.append(embedding)

    def step(self, embedding: Any, number: int) -> float:
        """Milliseconds of a whole step."""
        import torch

        import torch_tpu_embedding as tte

        start = time.perf_counter()
        embedding.enqueue([self.batches[number % len(self.batches)]])
        (rows,) = embedding.dequeue()
        loss = ((torch.tanh(rows @ self.head) - 1) ** 2).mean()
        loss.backward()
        embedding.apply_gradients()
        del rows, loss
        tte.runtime.sync(wait=True)
        return 1e3 * (time.perf_counter() - start)


def measure_memory(args: argparse.Namespace, rows: int) -> dict[str, int]:
    """Call `memory_of_steps` with one table, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of-steps", "--vocabularies", str(rows)]
    for option in ("dim", "batch_size", "optimizer", "warm_up"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return found


def memory_of_steps(args: argparse.Namespace) -> dict[str, int]:
    """Bytes of the table with its slots, and this process's peak of resident memory while it trains."""
    bench = Bench(args)
    (embedding,) = bench.embeddings
    for number in range(2 * args.warm_up):
        if number == args.warm_up:
            reset_peak()
        bench.step(embedding, number)
    size = sum(
        4 * each.num_elements for s in embedding._tables.engine.store.stacks for each in s.arrays
    )
    return {"table_bytes": size, "peak_bytes": resident("VmHWM")}


if __name__ == "__main__":
    main()

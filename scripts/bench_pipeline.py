#!/usr/bin/env python3
"""Does the loader hide the host's work? The step with it, against host and device alone, in one run.

The workload is `dcnv2-capped` (26 tables of D = 128, multi-hot, a small dense head), its tables capped at
--cap rows. In turn, round after round, the mean time of a step over --steps steps of

  host      batches checked, deduplicated and sent, and nothing else
  device    steps on batches that were sent before, until the device has finished
  plain     both, one after the other: enqueue, dequeue, backward, apply_gradients
  loader    the same through EmbeddingLoader, and once more with pipelined execution

and the ratios of plain to host + device and of loader to the larger of the two, within each round; medians
over the rounds, as JSON. On a CPU, host and device share the cores: they overlap less there than on a TPU,
and the ratio to the larger one says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("PJRT_DEVICE", "CPU")

import torch
from support.command_line import make_parser
from support.machine import describe_machine
from support.paths import output_file
from support.workloads import capped_criteo

import torch_tpu_embedding as tte
from torch_tpu_embedding.training.call_order import Queued

HIDDEN = 64
POOL = 24
"""The number of different batches, which return."""


class Bench:
    """One embedding, and the kinds of step to time; every method does some whole steps."""

    def __init__(self, cap: int, batch_size: int, pipelined: bool) -> None:
        self.work = capped_criteo(cap, batch_size)
        self.embedding = tte.TPUEmbedding(
            self.work.features(), batch_size, tte.Adagrad(0.01), seed=0,
            pipeline_execution_with_tensor_core=pipelined,
        )  # fmt: skip
        torch.manual_seed(0)
        width = self.work.dim * len(self.work.inputs)
        self.head = torch.randn(width, HIDDEN).div(width**0.5).to(self.embedding.device)
        draw = self.work.batches(seed=1)
        drawn = itertools.cycle([draw() for _ in range(POOL)])  # drawing is not measured
        self.draw = drawn.__next__
        self.loader = tte.EmbeddingLoader(self._batches(), self.embedding)
        self.running = iter(self.loader)
        prepare = self.embedding._steps.prepare
        sent = [prepare(self.draw(), None, True).sent for _ in range(POOL)]
        self.next_sent = itertools.cycle(sent).__next__

    def _batches(self) -> Iterator[list[object]]:
        while True:
            yield self.draw()

    def _step(self) -> None:
        activations = self.embedding.dequeue()
        (torch.relu(torch.cat(activations, dim=1) @ self.head) - 1).square().mean().backward()
        self.embedding.apply_gradients()
        del activations
        tte.runtime.sync()

    def host(self, steps: int) -> None:
        for _ in range(steps):
            self.embedding._steps.prepare(self.draw(), None, True)

    def device(self, steps: int) -> None:
        for _ in range(steps):
            self.embedding._steps.enqueue_prepared(Queued(self.next_sent(), True), None)
            self._step()
            tte.runtime.sync(wait=True)

    def plain(self, steps: int) -> None:
        for _ in range(steps):
            self.embedding.enqueue(self.draw())
            self._step()
            tte.runtime.sync(wait=True)

    def through_loader(self, steps: int) -> None:
        for _ in range(steps):
            next(self.running)
            self._step()
        tte.runtime.sync(wait=True)


def milliseconds(run: Callable[[int], None], steps: int) -> float:
    """The time of one step, as a mean over some."""
    start = time.perf_counter()
    run(steps)
    return 1e3 * (time.perf_counter() - start) / steps


def measure(args: argparse.Namespace, pipelined: bool) -> list[dict[str, float]]:
    """Milliseconds of a step of each kind, and their ratios, in every round."""
    bench = Bench(args.cap, args.batch_size, pipelined)
    loader = "loader_pipelined" if pipelined else "loader"
    runs = {"host": bench.host, "device": bench.device, "plain": bench.plain}
    if pipelined:
        del runs["plain"]  # measured already, without pipelined execution
    runs[loader] = bench.through_loader
    # The loader's thread waits, its queue full, while the others are measured.
    for run in runs.values():
        run(4)
    rounds = []
    for _ in range(args.rounds):
        times = {}
        for key, run in runs.items():
            if key == loader:
                run(bench.loader.depth + 1)  # use up the batches that waited
            times[key] = milliseconds(run, args.steps)
            if key == loader:
                time.sleep(1)  # until its thread has filled the queue again
        times[f"{loader}_to_larger"] = times[loader] / max(times["host"], times["device"])
        if "plain" in times:
            times["plain_to_sum"] = times["plain"] / (times["host"] + times["device"])
        rounds.append(times)
    bench.running.close()  # type: ignore[attr-defined]
    return rounds


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--cap", type=int, default=100_000, help="rows of a table, at most")
    add("--batch-size", type=int, default=1024, help="samples in a step")
    add("--steps", type=int, default=8, help="steps of one measurement")
    add("--rounds", type=int, default=5, help="measurements of each kind")
    add(
        "--json", type=output_file, metavar="FILE", help="write settings and medians to a file, too"
    )
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    args = parse_args()
    found: dict[str, list[float]] = {}
    for pipelined in (False, True):
        for times in measure(args, pipelined):
            for key, value in times.items():
                suffix = "_pipelined" if pipelined and key in ("host", "device") else ""
                found.setdefault(key + suffix, []).append(value)
    report = {key: round(statistics.median(values), 3) for key, values in found.items()}
    settings = {key: value for key, value in vars(args).items() if key != "json"}
    out = {**settings, "machine": describe_machine(), "median_ms": report}
    print(json.dumps(out))
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Does a long training on ids that come and go, through EmbeddingLoader, leak, compile or lose rows?

Ids of 64 bits drift: a share of each batch is new, and what was frequent fades. The table is full after the
first steps, and evicts from then on. At the end:

  memory    resident memory in the last tenth of the steps, against its median in the second tenth
  compiles  none after the second tenth
  map       each id that has a row has one of its own, and is found there
  rows      the table is finite, and every lookup of it too

Exits with 1 if one of them fails, and writes its findings as JSON.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("PJRT_DEVICE", "CPU")

import numpy as np
import torch
from support.command_line import make_parser
from support.machine import resident
from support.paths import output_file
from support.soak.checks import GROWTH, tell
from tqdm import tqdm

import torch_tpu_embedding as tte

B, D, H = 64, 8, 4
EVERY = 20
"""Steps between two looks at the memory."""


def make(args: argparse.Namespace) -> tte.TPUEmbedding:
    """One table, looked up by bags."""
    vocabulary = tte.DynamicVocabulary(
        args.eviction, admission=2, oov_rows=64, max_age=args.max_age
    )
    table = tte.TableConfig(args.rows, D, name="ids", combiner="sum", vocabulary=vocabulary)
    return tte.TPUEmbedding({"bags": tte.FeatureConfig(table)}, B, tte.Adagrad(0.1), seed=0)


def batches(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Bags of ids that drift: of a batch's ids, two new ones a step become frequent and fade."""
    splits = torch.full((B,), H)
    for step in range(args.steps):
        rng = np.random.default_rng([args.seed, step])
        number = 2 * step - rng.geometric(0.002, B * H)
        ids = (number * np.int64(0x9E3779B97F4A7C15 - (1 << 64))).astype(np.int64)
        yield {"bags": tte.Ragged.from_lengths(torch.from_numpy(ids), splits)}


def train(embedding: tte.TPUEmbedding, args: argparse.Namespace) -> dict[str, Any]:
    """Train through a loader; gives what was seen."""
    memory, compiles, losses = [], [], []
    loader = tte.EmbeddingLoader(batches(args), embedding)
    for step, _ in enumerate(tqdm(loader, total=args.steps, disable=None)):
        rows = embedding.dequeue()["bags"]
        loss = (rows - 1).square().sum()
        loss.backward()
        embedding.apply_gradients()
        if step % EVERY == 0:
            losses.append(float(embedding.to_host(loss.detach().reshape(1).expand(B))[0]))
            memory.append(resident("VmRSS"))
            compiles.append(tte.runtime.compile_count())
        del rows, loss
        tte.runtime.sync()
    tenth = max(len(memory) // 10, 1)
    before = statistics.median(memory[tenth : 2 * tenth])
    after = statistics.median(memory[-tenth:])
    return {
        "resident_mib_before": round(before / 2**20, 1),
        "resident_mib_after": round(after / 2**20, 1),
        "growth": round(after / before - 1, 5),
        "late_compiles": compiles[-1] - compiles[2 * tenth],
        "losses_are_finite": bool(np.isfinite(losses).all()),
    }


def look(embedding: tte.TPUEmbedding) -> dict[str, Any]:
    """The map and the table as they are at the end."""
    state = embedding.state_dict()
    ids, rows = state["ids.ids"][1:, 0], state["ids.ids"][1:, 1]
    vectors = embedding.read_rows("ids", ids)
    return {
        "ids": len(ids),
        "map_is_whole": len(rows.unique()) == len(ids)
        and torch.equal(vectors, state["ids.weight"][rows]),
        "rows_are_finite": bool(state["ids.weight"].isfinite().all()),
    }


def failures(report: dict[str, Any]) -> list[str]:
    """One line for each check that failed."""
    found = []
    if report["growth"] > GROWTH:
        found.append(f"memory: it grew by {report['growth']:.2%}; at most {GROWTH:.0%} is allowed")
    if report["late_compiles"]:
        found.append(f"compiles: {report['late_compiles']} after warm-up")
    if not report["evictions"]:
        found.append("map: no id lost its row, so this was no soak; give fewer --rows")
    found += [
        f"{name}: False" for name in ("map_is_whole", "rows_are_finite", "losses_are_finite")
        if not report[name]
    ]  # fmt: skip
    return found


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--steps", type=int, default=20_000, help="steps in all")
    add("--rows", type=int, default=1_000, help="of the table, 64 shared ones with them")
    add("--eviction", choices=["lru", "lfu"], default="lru", help="the rule of a full table")
    add("--max-age", type=int, help="steps without an id after which it loses its row")
    add("--seed", type=int, default=0, help="of the ids")
    add("--json", type=output_file, metavar="FILE", help="write the report to a file, too")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    args = parse_args()
    embedding = make(args)
    embedding.enable_metrics()
    start = time.perf_counter()
    report = {"steps": args.steps, "rows": args.rows, "eviction": args.eviction}
    report |= train(embedding, args)
    report["seconds"] = round(time.perf_counter() - start, 1)
    report |= look(embedding)
    report |= embedding.metrics()["tables"]["ids"]["vocabulary"]
    return tell(report, failures(report), args.json)


if __name__ == "__main__":
    sys.exit(main())

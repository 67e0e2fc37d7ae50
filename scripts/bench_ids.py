#!/usr/bin/env python3
"""Time of the map from ids to rows of a DynamicVocabulary for the ids of a training step, beside dedup.

`IdMap.update` sees random ids of 64 bits: known ones, all equally likely (so the processor's caches help
least), and a share that it has never seen. The time is that of the thread (`time.thread_time`, not the
clock), a step at a time, medians and means over the steps; the journal by which a failed batch is taken
back is kept as in training.

  half   the map has half of its rows given away; each step is taken back after it was timed, so that it
         stays half full
  full   all rows are given away: each id that is admitted takes the row of another, or, without eviction,
         is turned away

Beside it the dedup that every step has (`batch/dedup.py`) of as many lookups of rows. And the map's
memory in bytes a row, of all arrays that it keeps between steps.

Prints a Markdown table, that of docs/vocabularies.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from support.command_line import make_parser
from support.machine import describe_machine
from support.paths import output_file
from tqdm import tqdm

from torch_tpu_embedding.batch.dedup import Ranks
from torch_tpu_embedding.vocabularies.id_maps.id_map import IdMap, MapRules

EVICTIONS = {"lru": "lru", "lfu": "lfu", "none": None}
OOV_ROWS = 1_024
Ids = np.ndarray[Any, np.dtype[np.int64]]


def any_ids(rng: np.random.Generator, number: int) -> Ids:
    """So many ids of 64 bits, all but surely none that was drawn before."""
    return rng.integers(-(2**63), 2**63 - 1, number, dtype=np.int64)


def filled(
    rules: MapRules, args: argparse.Namespace, rng: np.random.Generator, share: float
) -> IdMap:
    """A map that has given this share of its rows away, an equal part of them in each of its steps."""
    made = IdMap(args.rows, rules)
    wanted = int(share * made.num_own)
    while made.num_ids < wanted:
        some = any_ids(rng, min(args.ids, wanted - made.num_ids))
        made.update(some.repeat(rules.admission), made.clock + 1)
    return made


def batches(
    made: IdMap, new_share: float, args: argparse.Namespace, rng: np.random.Generator
) -> Iterator[Ids]:
    """The ids of one step after another, given the ids that have rows then."""
    new = int(new_share * args.ids)
    while True:
        known = made.index.ids_of(np.flatnonzero(made.index.has_id()))
        ids = np.concatenate([rng.choice(known, args.ids - new), any_ids(rng, new)])
        rng.shuffle(ids)
        yield ids


def measure(
    eviction: str, admission: int, state: str, new_share: float, args: argparse.Namespace
) -> dict[str, Any]:
    """Thread time of the updates of one case, in milliseconds, and bytes a row."""
    rng = np.random.default_rng(args.seed)
    rules = MapRules(EVICTIONS[eviction], admission, OOV_ROWS, None)
    made = filled(rules, args, rng, 0.5 if state == "half" else 1.0)
    times = []
    for number, ids in enumerate(batches(made, new_share, args, rng)):
        if number == args.warm_up + args.steps:
            break
        start = time.thread_time()
        mapped = made.update(ids, made.clock + 1)
        times.append(1e3 * (time.thread_time() - start))
        if state == "half":
            made.take_back(mapped.journal)
    samples = times[args.warm_up :]
    return {
        "eviction": eviction,
        "admission": admission,
        "state": state,
        "new": new_share,
        "ms": round(statistics.median(samples), 3),
        "mean_ms": round(statistics.mean(samples), 3),
        "bytes_a_row": round(made.nbytes / args.rows, 1),
        "samples": [round(each, 3) for each in samples],
    }


def measure_dedup(args: argparse.Namespace) -> float:
    """Thread time of the dedup of a step's rows, the median in milliseconds."""
    rng, ranks, times = np.random.default_rng(args.seed), Ranks(), []
    for _ in range(args.warm_up + args.steps):
        rows = torch.from_numpy(rng.integers(0, args.rows, args.ids))
        start = time.thread_time()
        ranks.unique_inverse(rows, args.rows)
        times.append(1e3 * (time.thread_time() - start))
    return round(statistics.median(times[args.warm_up :]), 3)


def table(report: dict[str, Any]) -> str:
    """The medians as Markdown, with means where they are a tenth higher."""
    shares = report["settings"]["new"]
    lines = [
        "| eviction | admission | map | " + " | ".join(f"{each:.0%} new" for each in shares) + " |",
        "|---|---|---|" + "---|" * len(shares),
    ]
    rows: dict[tuple[str, int, str], list[str]] = {}
    for each in report["maps"]:
        cell = f"{each['ms']:.1f}"
        if each["mean_ms"] > 1.1 * each["ms"]:
            cell += f" ({each['mean_ms']:.1f})"
        rows.setdefault((each["eviction"], each["admission"], each["state"]), []).append(cell)
    lines += [
        f"| {eviction} | {admission} | {state} | " + " | ".join(cells) + " |"
        for (eviction, admission, state), cells in rows.items()
    ]
    most = max(each["bytes_a_row"] for each in report["maps"])
    lines += [
        "",
        f"Dedup of as many rows: {report['dedup_ms']:.1f} ms. Memory: {most:.1f} bytes a row.",
    ]
    return "\n".join(lines)


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """An option type: a number above 0."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--rows",
        type=positive(int),
        default=1_000_000,
        help="of the table, 1,024 shared ones with them",
    )
    add("--ids", type=positive(int), default=100_000, help="of a step")
    add(
        "--new",
        type=float,
        nargs="+",
        default=[0.01, 0.1, 0.5],
        help="shares of ids never seen before",
    )
    add("--eviction", nargs="+", choices=EVICTIONS, default=[*EVICTIONS], help="rules, in turn")
    add("--admission", type=positive(int), nargs="+", default=[1, 2], help="sightings, in turn")
    add(
        "--state",
        nargs="+",
        choices=("half", "full"),
        default=["half", "full"],
        help="maps, in turn",
    )
    add("--steps", type=positive(int), default=30, help="timed steps of a case")
    add("--warm-up", type=int, default=5, metavar="STEPS", help="untimed steps of a case")
    add("--seed", type=int, default=0, help="of the ids")
    add("--json", type=output_file, metavar="FILE", help="write settings, medians and samples")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    args = parse_args()
    torch.set_num_threads(1)
    settings = {key: value for key, value in vars(args).items() if key != "json"}
    cases = [*product(args.eviction, args.admission, args.state, args.new)]
    report = {
        "settings": settings,
        "machine": describe_machine(),
        "dedup_ms": measure_dedup(args),
        "maps": [measure(*case, args) for case in tqdm(cases, leave=False, disable=None)],
    }
    print(table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

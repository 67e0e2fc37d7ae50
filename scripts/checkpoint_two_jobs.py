#!/usr/bin/env python3
"""Two jobs that save into one directory at once, 200 times: what is lost?

It is forbidden, and it happens: a job that was taken for dead stands still, is replaced, and wakes up. In
each round two processes load the newest step and save the next ones, full or as deltas, in the foreground
or in the background, with keep_last=3; meanwhile nothing happens, or one of them is stopped at a random
moment until the other has ended, or one or both are killed.

After each round a step is *lost* if it was complete before, or a job was told that it is, and it is not
there though it is among the newest three; or if a complete step does not load. It is *silently wrong* if it
loads and is not what was saved. Both counts must be 0, else the exit status is 1. Needs Linux (fork).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from support.checkpoint.forked import in_child
from support.checkpoint.stepped_shard import Holder, make_tables
from support.command_line import make_parser
from support.paths import output_file, work_folder
from tqdm import tqdm

from torch_tpu_embedding import checkpoint

KEEP_LAST = 3
FAULTS = ("none", "one stands still", "one is killed", "both are killed")


class TwoJobs:
    """Rounds in one directory, and counts of what came of them."""

    def __init__(self, root: Path, rows: int, seed: int) -> None:
        self.run, self.told = root / "run", root / "told"
        self.tables = make_tables(rows)
        self.random = random.Random(seed)
        self.counts: dict[str, Counter[str]] = {fault: Counter() for fault in FAULTS}
        self.reported: set[int] = set()
        holder = Holder(self.tables)
        start = time.monotonic()
        for step in range(1, KEEP_LAST + 1):
            holder.shard.set_step(step)
            checkpoint.save(holder, self.run, step, {"step": step})
        self.span = time.monotonic() - start
        """Seconds that some saves take."""

    def round(self, number: int) -> None:
        fault = FAULTS[number % len(FAULTS)]
        before = {*checkpoint.complete_steps(self.run)}
        self.told.write_text("")
        first = self.job()
        time.sleep(self.random.uniform(0, self.span))
        if fault == "one stands still":
            os.kill(first, signal.SIGSTOP)
        second = self.job()
        if fault == "one stands still":
            status = [os.waitpid(second, 0)[1]]
            os.kill(first, signal.SIGCONT)
            status += [os.waitpid(first, 0)[1]]
        else:
            time.sleep(self.random.uniform(0, 2 * self.span))
            for child in (first, second)[: FAULTS.index(fault) - 1]:
                os.kill(child, signal.SIGKILL)
            status = [os.waitpid(child, 0)[1] for child in (first, second)]
        counts = self.counts[fault]
        counts["rounds"] += 1
        counts["jobs that were told to stop"] += [
            os.waitstatus_to_exitcode(s) for s in status
        ].count(1)
        self.check(counts, before)

    def job(self) -> int:
        """Fork a job; gives its number."""
        seed = self.random.random()

        def work() -> None:
            choose = random.Random(seed)
            holder = Holder(self.tables)
            step = checkpoint.load(holder, self.run).step
            for _ in range(choose.randint(1, 4)):
                since = step if choose.random() < 0.5 else None
                step += 1
                holder.shard.set_step(step)
                checkpoint.save(
                    holder, self.run, step, {"step": step}, since=since, keep_last=KEEP_LAST,
                    asynchronous=choose.random() < 0.5,
                ).wait()  # fmt: skip
                with open(self.told, "a") as told:
                    told.write(f"{step}\n")

        with open(os.devnull, "w") as silence, contextlib.redirect_stderr(silence):
            return in_child(work)

    def check(self, counts: Counter[str], before: set[int]) -> None:
        after = {*checkpoint.complete_steps(self.run)}
        told = {int(line) for line in self.told.read_text().split()}
        counts["steps told complete"] += len(told)
        newest = sorted(before | told | after)[-KEEP_LAST:]
        if missing := {*newest} - after:
            counts["lost"] += len(missing)
            print(f"LOST {missing}: before {before}, told {told}, after {after}", file=sys.stderr)
        for step in after - self.reported:
            holder = Holder(self.tables)
            holder.shard.clear()
            try:
                loaded = checkpoint.load(holder, self.run, step)
            except checkpoint.CheckpointError as error:
                counts["lost"] += 1
                self.reported.add(step)
                print(f"LOST step {step} ({before}, {told}): {error}", file=sys.stderr)
                continue
            if not holder.shard.is_right(step) or loaded.extra != {"step": step}:
                counts["silently wrong"] += 1
                print(f"WRONG step {step}", file=sys.stderr)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--rounds",
        type=int,
        default=200,
        help="rounds of two jobs, a fourth of them without a fault",
    )
    add("--rows", type=int, default=4000, help="rows of the largest table")
    add("--directory", type=work_folder, help="on the disk to test (default: temporary files)")
    add(
        "--seed", type=int, default=0, help="seed of the moments of the faults and of what is saved"
    )
    add("--json", type=output_file, metavar="FILE", help="write settings and counts")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    args = parse_args()
    torch.set_num_threads(1)  # a forked child has no thread pool
    root = Path(tempfile.mkdtemp(prefix="checkpoint-two-jobs-", dir=args.directory))
    try:
        jobs = TwoJobs(root, args.rows, args.seed)
        for number in tqdm(range(args.rounds), unit="round", disable=not sys.stderr.isatty()):
            jobs.round(number)
    finally:
        shutil.rmtree(root)
    for fault, counts in jobs.counts.items():
        print(f"{fault:<18} " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    bad = {
        name: sum(each[name] for each in jobs.counts.values())
        for name in ("lost", "silently wrong")
    }
    print(f"lost {bad['lost']}, silently wrong {bad['silently wrong']}")
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items()}
        args.json.write_text(
            json.dumps({"settings": settings, "counts": jobs.counts, **bad}, indent=1)
        )
    return 1 if any(bad.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

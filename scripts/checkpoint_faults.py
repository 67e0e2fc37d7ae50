#!/usr/bin/env python3
"""A fault campaign against checkpoints: kill, fill, forbid, truncate, flip, remove; then load and compare.

Tables are in memory and the value of every row at every step is known, so that after each fault it can be
said whether the newest complete checkpoint is there and right, bit for bit. A checkpoint is *lost* if a
step that was complete before the fault is not found or does not load after it; it is *silently wrong* if
something loads that is not what was saved. Both counts must be 0, else the exit status is 1.

Saves are full ones and deltas, in the foreground and in the background, by one process and by several.
Needs Linux (fork); mounting a small tmpfs for the full disk needs root, otherwise a limit on the size of
files stands in for it, and the report says which it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from support.checkpoint.forked import FileGroup, in_child
from support.checkpoint.stepped_shard import Holder, make_tables
from support.command_line import make_parser
from support.paths import output_file, work_folder

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format.steps import INDEX_NAME
from torch_tpu_embedding.distributed.group import HostGroup

NOBODY = 65534


class Campaign:
    """Counts of faults, and of what came of them."""

    def __init__(self, root: Path, rows: int, seed: int) -> None:
        self.root, self.tables = root, make_tables(rows)
        self.random = random.Random(seed)
        self.counts: dict[str, Counter[str]] = {}
        self.notes: dict[str, str] = {}

    def check(self, fault: str, run: Path, before: int, exact: int | None = None) -> None:
        """Count what is found after a fault.

        Args:
            before: the newest step that must be there.
            exact: the newest step that may be there, where that is known.
        """
        counts = self.counts.setdefault(fault, Counter(faults=0, lost=0, silently_wrong=0))
        counts["faults"] += 1
        holder = Holder(self.tables)
        holder.shard.clear()
        try:
            steps = checkpoint.complete_steps(run)
            loaded = checkpoint.load(holder, run)
            for step in steps:  # whatever counts as complete is whole
                checkpoint.open(run, step).close()
        except checkpoint.CheckpointError as error:
            counts["lost"] += 1
            print(f"LOST after {fault}: {error}", file=sys.stderr)
            return
        if loaded.step < before or (exact is not None and loaded.step != exact):
            counts["lost"] += 1
            print(f"LOST after {fault}: step {before}, found {steps}", file=sys.stderr)
        elif not holder.shard.is_right(loaded.step) or loaded.extra != {"step": loaded.step}:
            counts["silently_wrong"] += 1
            print(f"WRONG after {fault}: step {loaded.step} in {run}", file=sys.stderr)
        counts["new step complete" if loaded.step > before else "old step intact"] += 1

    def save_next(self, run: Path, group: HostGroup | None = None, **options: Any) -> None:
        """Do as a training program does: load the newest step, go on, save the next."""
        holder = Holder(self.tables, group)
        step = checkpoint.load(holder, run).step
        holder.shard.set_step(step + 1)
        since = step if options.pop("delta", False) else None
        if isinstance(group, FileGroup):
            group.gather_objects("all are about to save")
            group.say("saving")
            group.timeout = options["timeout"]
        checkpoint.save(
            holder, run, step + 1, {"step": step + 1}, since=since, keep_last=2,
            max_file_bytes=1 << 20, **options,
        )  # fmt: skip
        checkpoint.wait()

    def kills(self, rounds: int, processes: int) -> None:
        """kill -9 of one process or of all, at a random moment of the save, until that many hit."""
        fault = f"kill -9, {processes} process{'es' if processes > 1 else ''}"
        run = self.first_steps(f"kills-{processes}")
        spans: list[float] = []
        hits = 0
        for number in range(-6, 10 * rounds):  # the first six are not killed, but timed
            if hits == rounds:
                break
            before = checkpoint.complete_steps(run)[-1]
            delta, asynchronous = self.random.random() < 0.5, number % 2 == 0
            meeting = Path(tempfile.mkdtemp(dir=self.root))
            children = [
                self.saving_child(run, meeting, rank, processes, number < 0, delta, asynchronous)
                for rank in range(processes)
            ]
            while not all((meeting / f"saving-{rank}").exists() for rank in range(processes)):
                time.sleep(0.0005)
            start = time.monotonic()
            if number >= 0:
                time.sleep(self.random.uniform(0, 1.1 * min(spans)))
                self.random.shuffle(children)
                # every third time the whole machine goes down
                for child in children if number % 3 == 0 else children[:1]:
                    os.kill(child, signal.SIGKILL)
            ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            if number < 0:
                spans.append(time.monotonic() - start)
                assert checkpoint.complete_steps(run)[-1] == before + 1
            else:
                self.check(fault, run, before)
                hits += -signal.SIGKILL in ends
                self.counts[fault]["hit a live process"] = hits
            shutil.rmtree(meeting)

    def saving_child(
        self, run: Path, meeting: Path, rank: int, processes: int, patient: bool,
        delta: bool, asynchronous: bool,
    ) -> int:  # fmt: skip
        timeout = 20.0 if patient else 0.5
        group = FileGroup(meeting, rank, processes, 20.0)

        def work() -> None:
            self.save_next(run, group, delta=delta, asynchronous=asynchronous, timeout=timeout)

        return in_child(work)

    def full_disk(self, rounds: int) -> None:
        """A disk that has room for some of the step only."""
        with self.small_disk() as (disk, kind):
            self.notes["disk full"] = kind
            run = self.first_steps("full", disk)
            step_bytes = sum(each.stat().st_size for each in (run / "step-1").iterdir())
            for number in range(rounds):
                room = int(step_bytes * (number + 0.5) / rounds)
                options = {"delta": False, "asynchronous": number % 2 == 1}
                ballast = run.parent / "ballast"
                if kind == "tmpfs":
                    free = os.statvfs(disk)
                    ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
                child = in_child(
                    lambda room=room, options=options: self.limited(run, kind, room, options)
                )
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                ballast.unlink(missing_ok=True)
                self.check("disk full", run, 1, exact=1)
                self.counts["disk full"]["error raised" if status == 1 else "NO ERROR"] += 1

    def limited(self, run: Path, kind: str, room: int, options: dict[str, Any]) -> None:
        if kind != "tmpfs":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limit = max(1, min(room, 900_000))  # below the size of a file
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        self.save_next(run, **options)

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[tuple[Path, str]]:
        disk = self.root / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
        try:
            yield disk, "tmpfs" if mounted else "RLIMIT_FSIZE"
        finally:
            if mounted:
                subprocess.run(["umount", str(disk)], check=True)

    def read_only(self) -> None:
        """A directory that may not be written; root first becomes nobody, whom permissions bind."""
        run = self.first_steps("read-only")
        self.root.chmod(0o755)

        def work() -> None:
            if os.getuid() == 0:
                os.setuid(NOBODY)
            self.save_next(run)

        for path in (run, *run.iterdir()):
            path.chmod(0o555)
        status = os.waitstatus_to_exitcode(os.waitpid(in_child(work), 0)[1])
        self.check("read-only directory", run, 1, exact=1)
        self.counts["read-only directory"]["error raised" if status == 1 else "NO ERROR"] += 1
        for path in (run, *run.iterdir()):
            path.chmod(0o755)

    def damage(self, rounds: int) -> None:
        """One file of the newest step truncated, or one bit flipped, or the file removed."""
        run = self.first_steps("damage")
        self.save_next(run, delta=True)
        files = sorted(path for path in (run / "step-2").iterdir())
        for fault in ("truncated", "bit flipped", "file missing", "index missing"):
            for _ in range(rounds if fault in ("truncated", "bit flipped") else len(files)):
                path = (
                    run / "step-2" / INDEX_NAME if "index" in fault else self.random.choice(files)
                )
                content = path.read_bytes()
                place = self.random.randrange(len(content))
                if fault == "truncated":
                    os.truncate(path, place)
                elif fault == "bit flipped":
                    flipped = bytearray(content)
                    flipped[place] ^= 1 << self.random.randrange(8)
                    path.write_bytes(flipped)
                else:
                    path.unlink()
                self.check_damage(fault, run, path)
                path.write_bytes(content)
                if fault == "index missing":
                    break

    def check_damage(self, fault: str, run: Path, path: Path) -> None:
        """Loading must say which file is damaged (or be right), and fall back when asked."""
        counts = self.counts.setdefault(fault, Counter(faults=0, lost=0, silently_wrong=0))
        counts["faults"] += 1
        holder = Holder(self.tables)
        holder.shard.clear()
        try:
            loaded = checkpoint.load(holder, run)
            right = holder.shard.is_right(loaded.step) and loaded.extra == {"step": loaded.step}
            counts["loaded, right" if right else "silently_wrong"] += 1
        except checkpoint.CheckpointError as error:
            counts["error names the file" if str(path) in str(error) else "OTHER ERROR"] += 1
        holder.shard.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = checkpoint.load(holder, run, fall_back=True)
        if not holder.shard.is_right(loaded.step):
            counts["silently_wrong"] += 1

    def first_steps(self, name: str, root: Path | None = None) -> Path:
        """A run whose step 1 is complete."""
        run = (root or self.root) / name
        holder = Holder(self.tables)
        holder.shard.set_step(1)
        checkpoint.save(holder, run, 1, {"step": 1}, max_file_bytes=1 << 20)
        return run


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=100, help="kills that hit, and damages, of each kind")
    add("--processes", type=int, default=3, help="processes in the saves by several")
    add("--rows", type=int, default=16_000, help="rows of the largest table, 128 bytes each")
    add("--directory", type=work_folder, help="on the disk to test (default: temporary files)")
    add("--seed", type=int, default=0, help="seed of the moments and places of the faults")
    add("--json", type=output_file, metavar="FILE", help="write settings and counts")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    args = parse_args()
    torch.set_num_threads(1)  # a forked child has no thread pool
    start = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="checkpoint-faults-", dir=args.directory))
    campaign = Campaign(root, args.rows, args.seed)
    try:
        for name, part in (
            ("kills", lambda: campaign.kills(args.rounds, 1)),
            ("kills", lambda: campaign.kills(args.rounds, args.processes)),
            ("full disk", lambda: campaign.full_disk(max(2, args.rounds // 5))),
            ("read-only directory", campaign.read_only),
            ("damage", lambda: campaign.damage(args.rounds)),
        ):
            print(f"{name} …", file=sys.stderr)
            part()
    finally:
        shutil.rmtree(root)
    bad = sum(each["lost"] + each["silently_wrong"] for each in campaign.counts.values())
    for fault, counts in campaign.counts.items():
        note = f" ({campaign.notes[fault]})" if fault in campaign.notes else ""
        print(f"{fault + note:<24} " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    print(f"lost or silently wrong in all: {bad}; {time.monotonic() - start:.0f} s")
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items()}
        result = {"settings": settings, "counts": campaign.counts, "notes": campaign.notes}
        args.json.write_text(json.dumps(result, indent=1))
    unexpected = any(name.isupper() for each in campaign.counts.values() for name in each)
    return 1 if bad or unexpected else 0


if __name__ == "__main__":
    sys.exit(main())

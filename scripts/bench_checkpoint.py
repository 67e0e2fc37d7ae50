#!/usr/bin/env python3
"""How fast are save and load next to `cp` of the same bytes, and how much memory do they take?

One table in memory. In each round, in alternation on one disk: save (everything synced), `cp` of the step
just saved with a sync of every file, load (hashes verified), and reading the files with `cat`; the caches
are as each leaves them. Then, in processes of their own, the peak of the memory that a save, a load and a
background save take on top of the resident table. Prints medians; --json writes every sample.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from support.checkpoint.memory_shard import MemoryShard
from support.command_line import make_parser
from support.machine import describe_machine, reset_peak, resident
from support.paths import output_file, work_folder
from torch import Tensor

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.rows import field_widths
from torch_tpu_embedding.config.declared import TableConfig
from torch_tpu_embedding.config.resolved import Table
from torch_tpu_embedding.distributed.group import Alone
from torch_tpu_embedding.optimizers import Adagrad


class OneTable(MemoryShard):
    """A table in the memory of one process."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__([Table("table", TableConfig(rows, dim, name="table"), Adagrad())], Alone())
        generator = torch.Generator().manual_seed(0)
        widths = field_widths(self.tables[0])
        self.held = [
            {name: torch.rand(rows, width, generator=generator) for name, width in widths.items()}
        ]

    def set_mark(self) -> int:
        return 0

    def changed_since(self, table: int, mark: int) -> Tensor:
        return torch.arange(0)


class Holder:
    """An object with a shard: all that checkpoints know of an embedding."""

    def __init__(self, rows: int, dim: int) -> None:
        self.shard = OneTable(rows, dim)


def copy(step: Path, target: Path) -> None:
    """Copy the files of a step with `cp`, until the bytes are on the disk."""
    target.mkdir()
    files = [str(path) for path in step.iterdir()]
    subprocess.run(["cp", *files, str(target)], check=True)
    subprocess.run(["sync", *(str(path) for path in target.iterdir()), str(target)], check=True)


def concatenate(step: Path) -> None:
    """Read all files of a step, in processes of their own, as `cp` is one."""
    with open(os.devnull, "w") as nowhere:
        command = ["dd", "bs=1M", "status=none", "of=/dev/null"]
        for path in step.iterdir():
            subprocess.run([*command, f"if={path}"], check=True, stdout=nowhere)


def peak_over_table(rows: int, dim: int, run: Path, call: str) -> int:
    """Bytes of memory that one call takes beyond the resident table; run it in a new process."""
    torch.set_num_threads(1)
    holder = Holder(rows, dim)
    checkpoint.write_tables(run / "warm-up" / call, 0, {"t": {"weight": torch.zeros(8, 8)}})
    reset_peak()
    before = resident("VmRSS")
    if call == "load":
        checkpoint.load(holder, run)
    else:
        checkpoint.save(holder, run / call, 0, asynchronous=call == "background save").wait()
    return resident("VmHWM") - before


def time_rounds(holder: Holder, root: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; before them a round that is not counted."""
    seconds: dict[str, list[float]] = {"save": [], "cp": [], "load": [], "read": []}
    for number in range(rounds + 1):
        step = root / f"step-{number}"
        calls: dict[str, Callable[[], object]] = {
            "save": lambda number=number: checkpoint.save(holder, root, number),
            "cp": lambda step=step: copy(step, root / "copy"),
            "load": lambda: checkpoint.load(holder, root),
            "read": lambda step=step: concatenate(step),
        }
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - start)
        shutil.rmtree(root / "copy")
        if number:
            shutil.rmtree(root / f"step-{number - 1}")
    return seconds


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--rows", type=int, default=1 << 20, help="rows of the table")
    add("--dim", type=int, default=64, help="its width; with Adagrad 2 x 4 bytes each")
    add("--rounds", type=int, default=5, help="timed rounds")
    add("--directory", type=work_folder, help="on the disk to test (default: temporary files)")
    add("--json", type=output_file, metavar="FILE", help="write settings and samples")
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    args = parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="bench-checkpoint-", dir=args.directory))
    holder = Holder(args.rows, args.dim)
    size = sum(values.nbytes for values in holder.shard.held[0].values())
    peaks = {}
    try:
        seconds = time_rounds(holder, root, args.rounds)
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawning, max_tasks_per_child=1) as pool:
            for call in ("save", "load", "background save"):
                peaks[call] = pool.submit(peak_over_table, args.rows, args.dim, root, call).result()
    finally:
        shutil.rmtree(root)
    print(f"{size / 1e6:.0f} MB of rows, medians of {args.rounds} rounds")
    for name, samples in seconds.items():
        median = statistics.median(samples)
        print(f"{name:>6}  {median:7.3f} s  {size / median / 1e6:8.0f} MB/s")
    for name, other in (("save", "cp"), ("load", "read"), ("load", "cp")):
        ratios = [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]
        print(f"speed of {name} to {other}, median of the rounds: {statistics.median(ratios):.2f}")
    for name, peak in peaks.items():
        print(f"peak memory of {name} over the resident table: {peak / 1e6:.0f} MB")
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items()}
        result = {
            "settings": settings,
            "machine": describe_machine(),
            "bytes": size,
            "seconds": seconds,
            "peak_bytes": peaks,
        }
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

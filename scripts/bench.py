#!/usr/bin/env python3
"""Our training step and the same step done by others, in one run, in turn.

A step is: host ids in, activations of every feature written out, fixed gradients of them given back (they
stand for a model, the same for all), rows updated, everything finished. Host work is part of it. Round
after round every side does some steps; ratios are taken within a round. Sides:

  ours         torch_tpu_embedding on XLA's CPU device
  in-flight    the same, but waiting for the device once in a turn of --steps steps, as a training loop
               runs: the host works on a step while the device does the one before
  replayed     in-flight, with steps that run again from their compiled program (tte.replay); the checks
               among them, which are traced, are part of the time
  torch        nn.Embedding and nn.EmbeddingBag with sparse=True, torch's sparse optimizers, eager
  fbgemm       FBGEMM's CPU kernels: pip install --no-deps fbgemm-gpu-cpu==1.4.2 (fits torch 2.9)
  dense-xla    nn.Embedding on the XLA device with a dense optimizer: few steps, for it touches all rows
  one-feature  ours with the first feature alone, to see what 25 more cost (small26)

Sides that cannot be measured are named, with the reason. After the warm-up the tables of all sides are
compared. The bandwidth of a large copy is measured too, and each side's share of it, for the bytes that a
step must touch at least (records of unique rows read and written, activations written, their gradients
read).

Every workload and optimizer runs in a process of its own; where the tables of all sides do not fit into
memory at once, they are measured against ours in several. The allocator of all of them keeps freed memory
(--no-tune leaves it as it is). Threads: torch and FBGEMM use all cores; ours and dense-xla have one of
torch's threads and XLA's, which are as many as there are cores.

Is a step as fast at 16M rows as at 1M? That is scripts/bench_scale.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0"
    ":glibc.malloc.trim_threshold=10737418240"
}
"""Freed memory is kept for the next step instead of being asked from the system again."""
ENVIRONMENT = {"PJRT_DEVICE": "CPU", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
"""Defaults of the environment; `bench_series` gives every side its number of torch's threads."""
SHARE_OF_MEMORY = 0.85


def main() -> None:
    """Run from the command line."""
    os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
    args = parse_args()
    from support import bench_report
    from support.bench_series import Series, measure
    from tqdm import tqdm

    if args.series:
        print(json.dumps(measure(Series(**json.loads(args.series)))))
        return
    results = []
    for series, absent in tqdm(plan_series(args), desc="series", leave=False):
        found = launch(series, tuned=not args.no_tune)
        found["absent"] = {**absent, **found["absent"]}
        results.append(found)
        if args.json:  # so that a failing series does not lose earlier ones
            args.json.write_text(json.dumps(bench_report.as_json(results), indent=1) + "\n")
    print(bench_report.table(results))
    if args.plot:
        bench_report.plot(results, args.plot)


def parse_args() -> argparse.Namespace:
    """The command line."""
    from support.bench_peers import ELSEWHERE, SIDES
    from support.command_line import make_parser
    from support.paths import output_file, picture_file
    from support.peers.side import SLOT_FLOATS
    from support.workloads import MORE_WORKLOADS, WORKLOADS

    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--workload", nargs="+", choices=[*WORKLOADS, *MORE_WORKLOADS], default=["onehot26"],
        help="tables and features, in turn",
    )  # fmt: skip
    text = "of the tables, in turn"
    add("--optimizer", nargs="+", choices=[*SLOT_FLOATS], default=["Adagrad"], help=text)
    add(
        "--peers", nargs="+", choices=[*(name for name in SIDES if name != "ours"), *ELSEWHERE],
        help="sides to measure beside ours (default: all; one-feature with small26 only)",
    )  # fmt: skip
    add("--rounds", type=int, default=12, help="turns of every side")
    add("--steps", type=int, default=3, help="steps of a side in a round")
    add("--warmup", type=int, default=10, help="untimed steps of each side")
    add("--batch-size", type=int, help="samples in a step (default: the workload's)")
    add("--cap", type=int, metavar="ROWS", help="rows of a table, at most (default: no limit)")
    add("--seed", type=int, default=0, help="of the ids")
    add("--no-tune", action="store_true", help="leave the allocator as it is")
    add("--json", type=output_file, metavar="FILE", help="write settings and every sample")
    add("--plot", type=picture_file, metavar="FILE", help="draw a chart, .png or .svg")
    add("--series", help=argparse.SUPPRESS)
    return parser.parse_args()


def plan_series(args: argparse.Namespace) -> list[tuple[Any, dict[str, str]]]:
    """Every series to measure, with the peers that cannot be measured and the reasons."""
    from support.bench_peers import ELSEWHERE, SIDES
    from support.bench_series import Series

    found = []
    for workload in args.workload:
        for optimizer in args.optimizer:
            peers = args.peers or [
                name
                for name in (*SIDES, *ELSEWHERE)
                if name != "ours" and (name != "one-feature" or workload == "small26")
            ]
            base = Series(
                workload, optimizer, ("ours",), args.rounds, args.steps, args.warmup, args.seed,
                args.batch_size, args.cap,
            )  # fmt: skip
            found += divide(base, peers)
    return found


def divide(base: Any, peers: list[str]) -> list[tuple[Any, dict[str, str]]]:
    """Put as many peers beside ours into one process as memory allows.

    Returns:
        the series, each with the peers that cannot be measured and the reasons; all with the first series.
    """
    from support.bench_peers import ELSEWHERE, SIDES
    from support.bench_series import table_bytes

    tables = table_bytes(base.resolve(), base.optimizer)
    room = SHARE_OF_MEMORY * available_memory()
    absent = {name: ELSEWHERE[name] for name in peers if name in ELSEWHERE}
    groups: list[list[str]] = [["ours"]]
    for name in (name for name in peers if name in SIDES):
        alone = tables * (SIDES["ours"].memory_factor + SIDES[name].memory_factor)
        together = tables * sum(SIDES[each].memory_factor for each in [*groups[-1], name])
        if alone > room:
            absent[name] = (
                f"beside ours its tables need {alone / 1e9:.1f} GB, and {room / 1e9:.1f} GB are free; "
                "--cap makes them smaller"
            )
        elif together > room:
            groups.append(["ours", name])
        else:
            groups[-1].append(name)
    series = [replace(base, sides=tuple(group)) for group in groups]
    return [(each, {} if at else absent) for at, each in enumerate(series)]


def available_memory() -> int:
    """Bytes of memory that processes can still have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("MemAvailable"))
    return 1024 * int(found.split()[1])


def launch(series: Any, tuned: bool) -> dict[str, Any]:
    """Measure a series in a process of its own; if it dies, its sides are named as not measured."""
    environment = {**os.environ, **(TUNED if tuned else {})}
    command = [sys.executable, __file__, "--series", json.dumps(asdict(series))]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if ended.returncode == 0:
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return found
    reason = f"the process ended with {ended.returncode} (-9: out of memory)"
    absent = dict.fromkeys(series.sides, reason)
    return {"settings": asdict(series), "absent": absent, "sides": {}}


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Does any process ever hold a whole table?

Starts 1, then 4 processes (gloo between them) that build one table with Adagrad, train it for one step, and
read all their rows with state_dict. Each measures, for every phase, the peak of its resident memory above
its memory after the imports (Linux: VmHWM, reset between the phases). Prints the largest of all processes
in MiB, and as a multiple of the rows that a process holds; a phase that needs the whole table would show at
least S of them. --json writes the numbers of every process.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable

from support.command_line import make_parser
from support.machine import describe_machine, reset_peak, resident
from support.paths import output_file

PHASES = ("construction", "step", "state_dict")
DIM, BATCH = 32, 4096
ROW_BYTES = 2 * 4 * DIM  # weight and accumulator
MIB = 1 << 20


def main() -> None:
    """Run from the command line."""
    args = parse_args()
    rows = round(args.gib * (1 << 30) / ROW_BYTES)
    if args.worker:
        print(json.dumps(measure(rows, args.sharding)))
        return
    found = {}
    print(f"a table of {rows:,} rows, {rows * ROW_BYTES / MIB:,.0f} MiB with its accumulators")
    print("processes  MiB held by each" + "".join(f"  {phase:>20}" for phase in PHASES))
    for size in args.processes:
        found[size] = launch(size)
        own = found[size][0]["held"]  # the bytes of its rows
        peaks = [max(each[phase] for each in found[size]) for phase in PHASES]
        cells = [f"{peak / MIB:,.0f} MiB = {peak / own:.2f}" for peak in peaks]
        print(f"{size:>9}  {own / MIB:>16,.0f}" + "".join(f"  {cell:>20}" for cell in cells))
    if args.json:
        settings = {"rows": rows, "dim": DIM, "batch": BATCH, "sharding": args.sharding}
        result = {"settings": settings, "machine": describe_machine(), "bytes": found}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--gib", type=float, default=2.0, help="size of weights and accumulators together")
    text = "numbers of processes, in turn"
    add("--processes", type=int, nargs="+", default=[1, 4], metavar="S", help=text)
    text = "how rows are dealt to processes"
    add("--sharding", choices=("mod", "div"), default="mod", help=text)
    add("--json", type=output_file, metavar="FILE", help="write settings and measurements")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def launch(size: int) -> list[dict[str, int]]:
    """The measurements of each of S processes, which this function starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        "PJRT_DEVICE": "CPU",
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *sys.argv, "--worker"],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("measure_memory: a process failed; its error is above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def measure(rows: int, sharding: str) -> dict[str, int]:
    """Peak bytes of this process in each phase, above its bytes before, and the bytes of its rows."""
    import torch

    import torch_tpu_embedding as tte
    from torch_tpu_embedding import distributed

    torch.set_num_threads(1)
    distributed.initialize()
    torch.zeros(1, device=tte.runtime.device()).cpu()  # starts the device
    reset_peak()
    before, found = resident("VmRSS"), {}

    def watch(phase: str, work: Callable[[], object]) -> None:
        reset_peak()
        work()
        found[phase] = resident("VmHWM") - before
        distributed.gather(torch.zeros(1))  # all together, as in training

    table = tte.TableConfig(rows, DIM, name="big")
    embedding = tte.TPUEmbedding(
        [tte.FeatureConfig(table)], BATCH, tte.Adagrad(0.1), seed=0, sharding=sharding
    )

    def build() -> None:
        embedding.build()
        tte.runtime.sync(wait=True)

    def step() -> None:
        ids = torch.randint(0, rows, (embedding.local_batch_size,))
        embedding([ids])[0].sum().backward()
        embedding.apply_gradients()
        tte.runtime.sync(wait=True)

    watch("construction", build)
    watch("step", step)
    watch("state_dict", embedding.state_dict)
    found["held"] = len(embedding.placement.ids(0, rows)) * ROW_BYTES
    distributed.shutdown()
    return found


if __name__ == "__main__":
    main()

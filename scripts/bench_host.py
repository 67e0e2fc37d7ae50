#!/usr/bin/env python3
"""Host time of a training step, phase by phase, traced and replayed; and the TPU speed that it allows.

On a TPU the device needs about a millisecond for a step, so the host may decide the speed. Here a step is
taken traced and replayed in turn in one process, on the tables of a workload with the DLRM of the examples,
and the time in which its thread ran (`time.thread_time`, not the clock) is taken for each phase:

  loader thread  parse, dedup, buffers, upload: `enqueue`, which an EmbeddingLoader does in its thread
  main thread    dequeue, model, backward, dense optimizer, apply, sync; in their place "replay"

Medians over the steps. The few replayed calls that are traced as a check are left out (after the first
steps one in 256). Modelled samples/s of a TPU host:

  B / max(main thread, loader thread, device), device = ids x 71 cycles / the chip's clock

Assumed are two threads that do not slow each other, a host as fast as this one, and a device step that is
the scatter-add of its ids alone (71 cycles a row by the TPU compiler's code for v5e,
docs/lab/performance.md). A model, not a measurement.

Then: does the loader hide the host? By the clock, a replayed step with an EmbeddingLoader, against the
largest of main thread, loader thread and device, each alone, in turn in the same run (--loader-workload).
On a CPU all of them share the cores.

Prints Markdown tables, those of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ENVIRONMENT = {"PJRT_DEVICE": "CPU", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
EXAMPLES = Path(__file__).parents[1] / "examples"
CASES = ("onehot26", "small26", "movielens", "dcnv2-capped", "tiny")
LOADER_CASES = ("dcnv2-capped", "onehot26")


def main() -> None:
    """Run from the command line."""
    os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
    sys.path.append(str(EXAMPLES))  # of the model
    args = parse_args()
    if args.only:
        print(json.dumps(measure_one(args)))
        return
    from support.host.report import plot, tables
    from support.machine import describe_machine
    from tqdm import tqdm

    kinds = [("steps", each) for each in args.workload] if args.rounds else []
    kinds += [("loader", each) for each in args.loader_workload] if args.loader_rounds else []
    settings = {
        key: value for key, value in vars(args).items() if key not in ("json", "plot", "only")
    }
    out: dict[str, Any] = {
        "settings": settings, "machine": describe_machine(), "steps": [], "loader": [],
    }  # fmt: skip
    runs = [(kind, name, each) for kind, name in kinds for each in args.optimizer]
    for kind, name, optimizer in tqdm(runs, desc="cases", leave=False):
        out[kind].append(launch(kind, name, optimizer))
        if args.json:  # so that a failing case does not lose earlier ones
            args.json.write_text(json.dumps(out, indent=1) + "\n")
    print(tables(out))
    if args.plot and out["steps"]:
        plot(out["steps"], args.plot)


def launch(kind: str, name: str, optimizer: str) -> dict[str, Any]:
    """Measure a case in a process of its own, whose memory and programs are gone after it."""
    command = [sys.executable, *sys.argv, "--only", kind, name, optimizer]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def measure_one(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the case that `launch` has asked for."""
    import torch
    from support.host.loader import measure_loader
    from support.host.measure import measure

    kind, name, optimizer = args.only
    torch.set_num_threads(1)
    if kind == "steps":
        return measure(name, optimizer, args)
    args.rounds, args.steps = args.loader_rounds, args.loader_steps
    return measure_loader(name, optimizer, args)


def parse_args() -> argparse.Namespace:
    """The command line."""
    from support.command_line import make_parser
    from support.paths import output_file, picture_file
    from support.tpu.chips import CHIPS

    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--workload", nargs="+", choices=CASES, default=CASES, help="tables and features, in turn")
    text = "of tables and dense layers, in turn"
    add("--optimizer", nargs="+", choices=("Adagrad", "Adam"), default=["Adagrad"], help=text)
    add("--rounds", type=int, default=10, help="turns of each side; 0 leaves the phases out")
    add("--steps", type=int, default=10, help="steps of a side in a turn")
    add("--warm-up", type=int, default=20, metavar="STEPS", help="untimed steps of each side")
    add("--cap", type=int, default=200_000, metavar="ROWS", help="rows of a table, at most")
    add("--batch-size", type=int, help="samples in a step (default: the workload's)")
    add("--chip", choices=[*CHIPS], default="v5e", help="whose clock the device estimate takes")
    text = "measured with the loader, too"
    add("--loader-workload", nargs="+", choices=CASES, default=LOADER_CASES, help=text)
    text = "measurements with the loader; 0 leaves them out"
    add("--loader-rounds", type=int, default=7, metavar="ROUNDS", help=text)
    text = "steps of one measurement with the loader"
    add("--loader-steps", type=int, default=10, metavar="STEPS", help=text)
    add("--json", type=output_file, metavar="FILE", help="write settings, medians and samples")
    add("--plot", type=picture_file, metavar="FILE", help="draw the phases, .png or .svg")
    add("--only", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

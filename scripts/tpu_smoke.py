#!/usr/bin/env python3
"""Does everything work on this machine's TPU? One command for a new TPU VM, one report to send in.

    PJRT_DEVICE=TPU python scripts/tpu_smoke.py --report smoke.json

Each check is a process of its own, for a TPU belongs to one process at a time:

  device     versions, the device, the settings it was started with
  golden     tests/program/test_golden.py: the numbers that TensorFlow's own tests expect
  laws       tests/program/test_laws.py: permuted ids, split batches, duplicates; device against plain torch
  program    scripts/trace_step.py: the step is one program, every table is updated in place, none copied
  memory     under torch_tpu in its place: after 100 steps the device's peak memory has not grown by a table
  training   examples/train_dlrm.py, briefly: it must beat the same model without embeddings
  flat       scripts/bench_scale.py: a step is as fast with 16 times the rows (to 25 %)
  benchmark  scripts/bench.py: our step beside nn.Embedding with a dense optimizer (never fails on a time)

With --kernels, first of all and with a limit of its own, for a kernel may never end (docs/row_kernels.md):

  kernels    row kernels against XLA's scatter, bit for bit, and nanoseconds a record of both

Exits with 1 if a check fails. The report holds the results of each check, and the end of the output of each
that failed; add it to a bug report. Without PJRT_DEVICE it runs on XLA's CPU device.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.command_line import make_parser
from support.paths import output_file
from tqdm import tqdm

from torch_tpu_embedding import runtime

ROOT = Path(__file__).parent.parent
FLAT = 1.25
TAIL = 4000
"""Characters of a failed check's output that go into the report."""

DEVICE = """
import importlib.metadata as m, json, os, platform, sys
import torch_tpu_embedding as tte
names = ("torch", "torch_xla", "torch_tpu", "libtpu", "numpy", "safetensors", "torch_tpu_embedding")
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
def more():
    if tte.runtime.backend() == "torch_tpu": return {"devices": len(tte.runtime.local_device_ids())}
    import torch_xla.runtime as xr
    return {"devices": xr.global_runtime_device_count(),
            "attributes": {k: str(v) for k, v in xr.global_runtime_device_attributes()[0].items()}}
starts = ("PJRT", "XLA", "LIBTPU", "TPU", "GLIBC_TUNABLES", "OMP")
print(json.dumps({
    "versions": {name: version(name) for name in names},
    "python": sys.version, "platform": platform.platform(), "cores": os.cpu_count(),
    "device": str(tte.runtime.device()), "kind": tte.runtime.device_kind(), **more(),
    "environment": {k: v for k, v in os.environ.items() if k.startswith(starts)},
}))
"""


@dataclass(frozen=True)
class Check:
    """A command, and the judgement of its results."""

    name: str
    command: list[str]
    result: Path | None = None
    """The JSON file that it writes; None if the last line of its output is JSON, or it has none."""
    judge: Callable[[Any], str | None] = lambda found: None
    """From the results the reason why they are bad; None if they are good."""
    keep: Callable[[Any], Any] = lambda found: found
    """From the results the part that goes into the report."""


def checks(folder: Path, quick: bool) -> list[Check]:
    """All checks; they write their results into a folder."""

    def script(*parts: str) -> list[str]:
        return [sys.executable, "-W", "ignore", *parts]

    def tests(file: str) -> list[str]:
        return script("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"tests/{file}")

    small = ["--samples", "60000", "--scale", "0.02", "--steps", "100" if quick else "400"]
    sizes = ["65536", "1048576"] if quick else ["1048576", "16777216"]
    if runtime.backend() == "torch_tpu":
        rows = "200000" if quick else "8000000"
        program = Check(
            "memory", script("scripts/support/smoke_memory.py", "--rows", rows), judge=_judge_memory
        )
    else:
        program = Check(
            "program",
            script("scripts/trace_step.py", "--json", "--out", str(folder / "dump"),
                   "--tables", "3", "--vocabulary", "20000", "--batch-size", "512",
                   "--layout", "TPU" if os.environ["PJRT_DEVICE"] == "TPU" else "CPU"),
            judge=_judge_program,
            keep=lambda found: {key: found[key] for key in ("arrays", "temporary_bytes", "programs")},
        )  # fmt: skip
    return [
        Check("device", script("-c", DEVICE)),
        Check("golden", tests("program/test_golden.py")),
        Check("laws", tests("program/test_laws.py")),
        program,
        Check(
            "training",
            script("examples/train_dlrm.py", *small, "--json", str(folder / "dlrm.json")),
            folder / "dlrm.json",
            _judge_training,
            lambda found: found["results"],
        ),
        Check(
            "flat",
            script("scripts/bench_scale.py", "--rounds", "10", "--vocabularies", *sizes,
                   "--json", str(folder / "scale.json")),
            folder / "scale.json",
            _judge_flat,
        ),
        Check(
            "benchmark",
            script("scripts/bench.py", "--workload", "small26" if quick else "onehot26", "--rounds", "3",
                   "--optimizer", "Adagrad", "--peers", "dense-xla",
                   "--json", str(folder / "bench.json")),
            folder / "bench.json",
        ),
    ]  # fmt: skip


def kernel_check() -> Check:
    """The check of --kernels."""
    command = [sys.executable, "-W", "ignore", "scripts/support/kernels/times.py"]
    return Check("kernels", command, judge=lambda found: found["fault"])


def _judge_program(found: Any) -> str | None:
    if found["programs"] != 1:
        return f"the step is {found['programs']} programs, not one"
    bad = [each for each in found["arrays"] if each["copies"] or not each["donated"]]
    return f"arrays that are copied, or not updated in place: {bad}" if bad else None


def _judge_memory(found: Any) -> str | None:
    grown = found["peak"] - found["start"]
    return f"{grown:,} bytes more than at the start" if grown > found["tables"] / 2 else None


def _judge_training(found: Any) -> str | None:
    results = found["results"]
    auc, without = results["auc"], results["dense_only_auc"]
    if auc <= without:
        return f"AUC {auc:.4f} is no better than {without:.4f} without embeddings"
    late = results["compiles_after_warm_up"]
    return f"{late} compiles after warm-up" if late else None


def _judge_flat(found: Any) -> str | None:
    first, last = found["milliseconds"][0], found["milliseconds"][-1]
    ratio = statistics.median(many / few for many, few in zip(last, first, strict=True))
    return f"16 times the rows cost {ratio:.2f} times the step" if ratio > FLAT else None


def run(check: Check, limit: float) -> dict[str, Any]:
    """Run one check; returns its entry of the report: verdict, results, and if it failed its output."""
    start = time.perf_counter()
    found: Any = None
    try:
        done = subprocess.run(
            check.command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False
        )
        output, problem = done.stdout + done.stderr, None
        if done.returncode != 0:
            problem = f"exit code {done.returncode}"
        elif check.result is not None:
            found = json.loads(check.result.read_text())
        elif done.stdout.strip().startswith("{"):
            found = json.loads(done.stdout)
        problem = problem or (check.judge(found) if found is not None else None)
    except subprocess.TimeoutExpired as late:
        output = "".join(str(part or "") for part in (late.stdout, late.stderr))
        problem = f"no end after {limit:.0f} s"
    except (LookupError, ValueError, OSError) as error:
        problem = f"its results cannot be read: {error!r}"
    return {
        "ok": problem is None,
        "problem": problem,
        "seconds": round(time.perf_counter() - start, 1),
        "command": " ".join(
            ["python", *(part if "\n" not in part else "…" for part in check.command[3:])]
        ),
        "found": check.keep(found) if found is not None and problem is None else found,
        "output": output[-TAIL:] if problem else None,
    }


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    names = [check.name for check in checks(Path(), quick=False)]
    add = parser.add_argument
    add("--report", type=output_file, default="tpu_smoke.json", metavar="FILE", help="the report")
    add(
        "--only",
        nargs="+",
        metavar="CHECK",
        choices=names,
        help="some of the checks (default: all)",
    )
    add("--quick", action="store_true", help="small sizes: minutes on a laptop")
    add("--seconds", type=float, default=1200, help="limit of one check")
    add("--kernels", action="store_true", help="check and time the row kernels first")
    add("--kernel-seconds", type=float, default=300, help="limit of that check")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    args = parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        chosen = checks(Path(folder), args.quick)
        if args.only:
            chosen = [each for each in chosen if each.name in args.only]
        if args.kernels:
            chosen.insert(0, kernel_check())
        progress = tqdm(chosen, disable=None)
        for check in progress:
            progress.set_description(check.name)
            limit = args.kernel_seconds if check.name == "kernels" else args.seconds
            report[check.name] = found = run(check, limit)
            args.report.write_text(json.dumps(report, indent=1) + "\n")
            state = "ok" if found["ok"] else f"FAILED: {found['problem']}"
            tqdm.write(f"{check.name:10} {found['seconds']:7.1f} s  {state}")
    print(f"report: {args.report}")
    return int(not all(each["ok"] for each in report.values()))


if __name__ == "__main__":
    sys.exit(main())

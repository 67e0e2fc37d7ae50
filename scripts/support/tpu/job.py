"""Processes of scripts/tpu_report.py: one that traces a step, one that compiles it for a chip."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.tpu.chips import CHIPS, LANES, SPARSE_CORE, narrow_rows
from support.tpu.program import read_program, summed
from support.tpu.schedule import count_cycles, dump_arguments
from trace_step import FORMS

SCRIPTS = Path(__file__).parent.parent.parent
ROOT = SCRIPTS.parent
TORCH_TPU_ON_CPU = ROOT / "tests" / "support" / "torch_tpu_on_cpu"
QUICK_COMPILES = "--xla_backend_optimization_level=0"
"""For XLA's CPU compiler, whose code is thrown away."""


JOINT = "torch_tpu_joint"
SEVERAL = ("torch_tpu", JOINT)
"""The forms of several programs a step."""


class JobError(Exception):
    """A job did not end well; the message says how."""


def trace_step(
    args: argparse.Namespace, out: Path, optimizer: str, dim: list[int], mode: str, form: str
) -> dict[str, Any]:
    """Trace a step with the TPU layout in a process of its own; returns scripts/trace_step.py's report."""
    name = "-".join([args.workload or "tables", optimizer, *map(str, dim), mode, form])
    name += f"-{args.bfloat16}-in-bfloat16" if args.bfloat16 else ""
    tracer = [sys.executable, "-W", "ignore", str(SCRIPTS / "trace_step.py")]
    several = form in SEVERAL
    if several:
        tracer = [args.torch_tpu_python, "-W", "ignore", "-m", "support.tpu.step_programs"]
    command = [*tracer, "--json", "--out", str(out / "traced" / name), "--layout", "TPU"]
    command += ["--form", form if form in FORMS else "ours"]
    command += ["--row-kernels"] if form == "kernels" else []
    command += ["--optimizer", optimizer, "--dim", *map(str, dim)]
    command += ["--evaluate"] if mode == "eval" else []
    command += ["--joint"] if form == JOINT else []
    for option in ("workload", "max_rows", "tables", "vocabulary", "batch_size"):
        value = getattr(args, option)
        command += [f"--{option.replace('_', '-')}", str(value)] if value is not None else []
    command += ["--ids-per-sample", str(args.ids_per_sample), "--unique", str(args.unique)]
    command += ["--ragged"] if args.ragged else []
    command += ["--bfloat16", args.bfloat16] if args.bfloat16 else []
    settings = {"PJRT_DEVICE": "CPU", "OMP_NUM_THREADS": "1", "XLA_FLAGS": QUICK_COMPILES}
    if several:
        settings["PYTHONPATH"] = os.pathsep.join(map(str, (TORCH_TPU_ON_CPU, SCRIPTS, ROOT)))
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **settings}, check=False
    )
    if done.returncode:
        raise JobError(f"not traced: {last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compile_step(
    traced: dict[str, Any], chip: str, more: str, out: Path, python: str, timeout: int
) -> dict[str, Any]:
    """Compile a traced step for a chip, or read the result of an earlier run with the same program.

    Args:
        more: LIBTPU_INIT_ARGS.
        python: the interpreter that has the compiler.
        timeout: seconds.

    Raises:
        JobError: the compiler failed or took too long, or is known to hang on such a program.
    """
    proto = Path(traced["proto"])
    narrow = narrow_rows([array["shape"] for array in traced["arrays"]])
    if SPARSE_CORE in more and narrow:
        raise JobError(
            f"refused: the compiler hangs when it offloads rows of {narrow} lanes to a SparseCore; only "
            f"multiples of {LANES} work"
        )
    key = hashlib.sha256(proto.read_bytes() + f"{chip} {more}".encode()).hexdigest()[:16]
    folder = out / "compiled" / f"{chip}-{key}"
    if not (folder / "cycles.json").exists():  # the last to be written
        shutil.rmtree(folder, ignore_errors=True)
        try:
            cycles = run_compiler(python, proto, chip, folder, more=more, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise JobError(f"the compiler was stopped after {timeout} s (--timeout)") from None
        except subprocess.CalledProcessError as failure:
            raise JobError(f"the compiler failed: {last_line(failure.stderr)}") from None
        (folder / "cycles.json").write_text(json.dumps(cycles))
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    result["folder"] = str(folder)
    result["program"] = read_program(
        (folder / "program.txt").read_text(),
        [array["shape"] for array in traced["arrays"]],
        json.loads((folder / "cycles.json").read_text()),
    )
    return result


def compile_calls(
    traced: dict[str, Any], chip: str, more: str, out: Path, python: str, timeout: int
) -> dict[str, Any]:
    """Compile a step for a chip that runs several programs; arguments and errors as for `compile_step`."""
    calls: dict[str, list[dict[str, Any]]] = {}
    for call in traced["calls"]:
        found = calls.setdefault(call["call"], [])
        for each in call["programs"]:
            part = {**traced, "proto": each["proto"]}
            compiled = compile_step(part, chip, more, out, python, timeout)
            name = Path(each["proto"]).name.split(".")[1]
            found.append({"name": name, "runs": each["runs"], **compiled})
    return summed(calls)


def run_compiler(
    python: str,
    proto: Path,
    chip: str,
    folder: Path,
    *options: str,
    more: str = "",
    timeout: int | None = None,
) -> dict[str, int]:
    """Compile a program for a chip; compiler.py writes program.txt and result.json into a new folder.

    Args:
        options: more options of compiler.py.
        more: LIBTPU_INIT_ARGS.
        timeout: seconds.

    Returns:
        the cycles of each part of the machine code, by its name.
    """
    code = folder / "code"
    code.mkdir(parents=True)
    script = SCRIPTS / "support" / "tpu" / "compiler.py"
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PJRT_DEVICE")}
    environment["LIBTPU_INIT_ARGS"] = f"{given} {more} {dump_arguments(code)}".strip()
    subprocess.run(
        [python, str(script), str(proto), "--chip", chip, "--out", str(folder), *options],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
        check=True,
    )
    cycles = count_cycles(code, CHIPS[chip].granule_bytes)
    shutil.rmtree(code)
    return cycles


def last_line(text: str) -> str:
    """The last line of an error output, which has the message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"

"""Steps with row kernels, traced where there is no TPU: XLA dumps their program, and cannot compile it.

After its refusal XLA's CPU compiler has damaged the memory of the process, which may end at any moment; so
the step is traced in a process of its own, and what is to be known of it is written down before.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.hlo_report import structure


def trace_apart(trace: Callable[[], object], facts: Path) -> dict[str, Any]:
    """Trace a step in a forked process; gives the facts that it wrote into a file (JSON)."""
    child = os.fork()
    if child == 0:
        try:
            trace()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(child, 0)
    if not facts.exists():
        raise SystemExit("trace_step: the step with row kernels could not be traced")
    found: dict[str, Any] = json.loads(facts.read_text())
    return found


def pretend_tpu() -> None:
    """Let row kernels be traced here, unchecked."""
    from torch_tpu_embedding.program import build

    build.on_a_tpu = lambda: True
    build.kernels_work = lambda exchange, arrays: True


def dump_and_end(found: dict[str, Any], facts: Path) -> None:
    """Write down what is known of the traced step, have its program dumped, and end the process."""
    import torch_tpu_embedding as tte

    facts.write_text(json.dumps(found))
    try:
        tte.runtime.sync()
    except ValueError as error:
        if "tpu_custom_call" not in str(error):
            facts.unlink()
            traceback.print_exc()
    os._exit(0)


def inspect_traced(folder: Path, arrays: list[dict[str, Any]]) -> dict[str, Any]:
    """Read the program that was traced last: a part of what `hlo_report.inspect` gives."""
    programs = [*folder.glob("*before_optimizations.hlo.pb")]
    proto = max(programs, key=lambda path: int(path.name.split(".")[0].split("_")[1]))
    text = proto.with_name(proto.name.replace(".hlo.pb", ".txt")).read_text()
    return {
        "proto": str(proto),
        "structure": structure(text, [array["shape"] for array in arrays]),
    }

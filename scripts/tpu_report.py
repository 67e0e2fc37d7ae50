#!/usr/bin/env python3
"""Compile a step on embedding tables with the TPU compiler, for v4, v5e, v5p and v6e, without a TPU.

Real steps are traced on the CPU (scripts/trace_step.py, TPU layout) and compiled, not run, for one chip of
each generation. Compared are this package (ours), the same with row kernels (kernels), nn.Embedding with an
optimizer of torch.optim (naive) and one array [V, D] for each table and slot, of which only the distinct
rows are touched (plain). torch_tpu is our step under torch_tpu, whose programs are compiled one by one and
summed; torch_tpu_joint, for training, has the loss and its gradients from one function (torch.func). Both
need an interpreter that has torch_tpu and the plugin of its tests (extras torch-tpu and torch-tpu-test),
--torch-tpu-python.

  temp MB     temporaries of the program
  MB in place outputs that take over the memory of an argument (donated)
  table-sized instructions that make an array of a table's size, other than rows written into it
              (if a table is smaller than the batch, arrays of the batch's size count as well)
  est Mcyc    ESTIMATE: cycles that the compiler prints, summed; it prints none for gathers, scatters, sorts
  code Mcyc   ESTIMATE: bundles of the machine code of gathers, scatters and sorts (support/tpu/schedule.py)
  bound       cycles in which HBM moves the bytes of our step (scripts/support/tpu/chips.py, step_bytes.py)
  est/bound, all/bound   est, and est + code, as multiples of the bound

No number here is a measured time. Jobs run one after another, each compilation in a process of its own.
Needed: jax 0.7.1, jaxlib 0.7.1 and libtpu 0.0.21, in this environment (pip install '.[tpu-report]') or in
one of their own, named with --compiler-python.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from support.command_line import make_parser
from support.paths import output_file, output_folder, picture_file
from support.tpu.chips import CHIPS, SPARSE_CORE
from support.tpu.job import JOINT, SEVERAL, JobError, compile_calls, compile_step, trace_step
from trace_step import FORMS, OPTIMIZERS, add_case_options

Row = dict[str, Any]
HEADINGS = [
    "step", "chip", "MB in place", "temp MB", "table-sized", "est Mcyc", "code Mcyc", "bound", "est/bound",
    "all/bound", "gathers", "scatters", "sorts", "copies", "instructions",
]  # fmt: skip


def main() -> None:
    """Run from the command line."""
    args = parse_args()
    check_compiler(args.compiler_python)
    rows: list[Row] = []
    for row in run(args):
        rows.append(row)
        if args.json:  # as they come, for the whole may take hours
            args.json.write_text(json.dumps(as_json(rows), indent=1))
    print(table(rows))
    if args.plot:
        from support.tpu.plot import plot

        if not plot(rows, args.plot):
            print(f"tpu_report: no {args.plot}, for no step was compiled", file=sys.stderr)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--chips", nargs="+", choices=CHIPS, default=list(CHIPS), help="generations to compile for")
    text = "steps to compare (default: all but kernels and those of torch_tpu)"
    add("--form", nargs="+", choices=[*FORMS, "kernels", *SEVERAL], default=FORMS, help=text)
    add("--optimizer", nargs="+", choices=OPTIMIZERS, default=["Adagrad"], help="in turn")
    add("--train", action="store_true", help="training steps (the default)")
    add("--eval", action="store_true", help="evaluation steps, also or only")
    add_case_options(parser)
    add("--sparse-core", action="store_true", help="on v5p and v6e also with its offload")
    add("--compiler-args", metavar="ARGS", default="", help="more LIBTPU_INIT_ARGS (default: none)")
    text = "interpreter that has jax and libtpu (default: the one that runs this)"
    add("--compiler-python", metavar="PYTHON", default=sys.executable, help=text)
    text = "interpreter that has torch_tpu and its plugin (default: the one that runs this)"
    add("--torch-tpu-python", metavar="PYTHON", default=sys.executable, help=text)
    add("--timeout", type=int, default=600, help="seconds for one compilation")
    text = "folder of the programs; compiled ones are used again"
    add("--out", type=output_folder, default="tpu_report", help=text)
    add("--json", type=output_file, metavar="FILE", help="write all results, each as it comes")
    add("--plot", type=picture_file, metavar="FILE", help="draw a plot (matplotlib)")
    return parser.parse_args()


def check_compiler(python: str) -> None:
    """Exit with the name of the extra to install if an interpreter lacks the compiler."""
    code = "import importlib.metadata as m; print(m.version('jax'), m.version('libtpu'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(
            f"tpu_report: {python} cannot be run: {error.strerror}; give the path of a Python interpreter "
            "with --compiler-python"
        ) from None
    if done.returncode:
        raise SystemExit(
            f"tpu_report: {python} has no jax or no libtpu; install the extra 'tpu-report' there, or name "
            "an interpreter that has them with --compiler-python"
        )


def run(args: argparse.Namespace) -> Iterator[Row]:
    """Trace and compile every combination asked for; gives each as it is done."""
    from tqdm import tqdm

    dims = [args.dim] if args.workload else [[dim] for dim in args.dim]
    modes = ["eval"] * args.eval + ["train"] * (args.train or not args.eval)
    cases = [
        (optimizer, dim, mode, form)
        for mode in sorted(modes, reverse=True)
        for optimizer in args.optimizer
        for dim in dims
        for form in args.form
        if (form != "naive" or optimizer in ("SGD", "Adagrad", "Adam"))
        and (form, mode) != (JOINT, "eval")
    ]
    needed: dict[str, Any] = {}
    for optimizer, dim, mode, form in tqdm(cases, unit="step", disable=None):
        name = f"{optimizer} {args.workload or 'D ' + str(dim[0])} {mode}"
        base = {
            "case": name,
            "optimizer": optimizer,
            "dim": None if args.workload else dim[0],
            "mode": mode,
            "form": form,
        }
        try:
            traced = trace_step(args, args.out, optimizer, dim, mode, form)
        except JobError as failure:
            yield {**base, "chip": "", "failed": str(failure)}
            continue
        needed[name] = traced.get("bytes") or needed.get(name)
        for chip in args.chips:
            for sparse in (False, True):
                if sparse and not (args.sparse_core and CHIPS[chip].has_sparse_core):
                    continue
                row = {**base, "chip": chip, "sparse_core": sparse, "needed": needed[name]}
                more = f"{args.compiler_args} {SPARSE_CORE if sparse else ''}".strip()
                compile_it = compile_calls if "calls" in traced else compile_step
                try:
                    compiled = compile_it(
                        traced, chip, more, args.out, args.compiler_python, args.timeout
                    )
                except JobError as failure:
                    yield {**row, "failed": str(failure)}
                    continue
                yield judge({**row, **compiled})


def judge(row: Row) -> Row:
    """Add the bound and the multiples of it."""
    row["all_cycles"] = row["program"]["estimated_cycles"] + row["program"]["counted_cycles"]
    if row["needed"]:
        parts = ("record_bytes", "activation_bytes", "index_bytes")
        row["bound_bytes"] = sum(row["needed"][part] for part in parts)
        row["bound_cycles"] = CHIPS[row["chip"]].hbm_cycles(row["bound_bytes"])
    return row


def table(rows: list[Row]) -> str:
    """All rows under the headings, columns aligned."""
    lines = [HEADINGS]
    for row in rows:
        step = f"{row['case']} {row['form']}".replace(" ", "_")
        chip = row["chip"] + ("+SC" if row.get("sparse_core") else "")
        if "failed" in row:
            lines.append([step, chip, f"failed: {row['failed']}"])
            continue
        program, ops = row["program"], row["program"]["ops"]
        bound = row.get("bound_cycles")
        lines.append([
            step, chip,
            f"{row['aliased_bytes'] / 1e6:.0f}", f"{row['temporary_bytes'] / 1e6:.1f}",
            str(sum(program["table_sized"].values())),
            *(f"{program[key] / 1e6:.2f}" for key in ("estimated_cycles", "counted_cycles")),
            *([f"{bound / 1e6:.3f}", f"{program['estimated_cycles'] / bound:.1f}",
               f"{row['all_cycles'] / bound:.0f}"] if bound else ["-"] * 3),
            *(str(ops[key]) for key in ("gathers", "scatters", "sorts", "copies", "instructions")),
        ])  # fmt: skip
    widths = [
        max(len(line[at]) for line in lines if len(line) == len(HEADINGS))
        for at in range(len(HEADINGS))
    ]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        for line in lines
    )


def as_json(rows: list[Row]) -> dict[str, Any]:
    """The rows, with the chips and the formula that explain them."""
    return {
        "kind": "compiled, not run: estimates",
        "chips": {name: vars(chip) for name, chip in CHIPS.items()},
        "bound": "bound_bytes / hbm_bytes_per_second * clock_hertz",
        "rows": rows,
    }


if __name__ == "__main__":
    main()

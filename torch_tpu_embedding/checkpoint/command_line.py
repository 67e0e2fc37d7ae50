"""The commands about checkpoints: inspect, verify, diff, reshard, convert; no torch_xla."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from typing import Any

from ..io.paths import path_option
from . import inspection
from .convert import tensorflow
from .errors import CheckpointError
from .inspection import Progress
from .reading.reader import open_checkpoint


def run(program: str, args: argparse.Namespace) -> int:
    """Run the command that was parsed; gives the exit status: 0 good, 1 damaged or different, 2 not usable.

    Args:
        program: how the program is called, for messages.
        args: with the command's function as `run`.
    """
    try:
        status, result, text = args.run(args)
    except (CheckpointError, OSError, ValueError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1) if args.json else text)
    return int(status)


def _inspect(args: argparse.Namespace) -> tuple[int, Any, str]:
    result = inspection.inspect(args.directory, args.step, not args.no_norms)
    step = result["step"]
    lines = [
        f"{result['directory']}",
        f"complete steps: {_list(result['complete'])}; never finished: {_list(result['incomplete'])}",
        f"step {step['step']}: {_count(step['num_shards'], 'shard')} ({step['strategy']}), "
        f"{_count(step['files'], 'file')}, {_count(step['bytes'], 'byte')}"
        + (f", delta on step {step['base']}" if step["base"] is not None else "")
        + (f", extra of {_count(step['extra'], 'byte')}" if step["extra"] is not None else ""),
    ]
    for table in step["tables"]:
        optimizer = table["optimizer"]["class"] if table["optimizer"] else "not known"
        by = table.get("vocabulary")
        vocabulary = f", vocabulary {by['class']}" if by else ""
        if by and "ids" in by:
            vocabulary += f": {_count(by['ids'], 'id')}, {by['occupancy']:.0%} of the rows for ids"
        lines.append(f"  {table['name']} (optimizer {optimizer}{vocabulary})")
        for name, field in table["fields"].items():
            norm = (
                f"  norm {field['norm']:.6g}, largest {field['max_abs']:.6g}"
                if "norm" in field
                else ""
            )
            lines.append(f"    {name:<14} {field['shape'][0]:>12,} x {field['shape'][1]:<5}{norm}")
    whole, small = step["serving_bytes"]["float32"], step["serving_bytes"]["int8"]
    lines.append(
        f"for serving: weights of {whole:,} bytes, {small:,} as int8 ({small / whole:.0%}; "
        "export_serving(quantize='int8'))"
    )
    return 0, result, "\n".join(lines)


def _verify(args: argparse.Namespace) -> tuple[int, Any, str]:
    total = inspection.count_files(args.directory, args.step)
    with _progress(total, "files", args) as progress:
        result = inspection.verify(args.directory, args.step, progress)
    lines = []
    for step in result["steps"]:
        state = "BAD" if step["errors"] else "good"
        lines.append(f"step {step['step']}: {state}, {_count(step['files'], 'file')} hashed")
        lines += [f"  {error}" for error in step["errors"]]
    return 0 if result["ok"] else 1, result, "\n".join(lines)


def _diff(args: argparse.Namespace) -> tuple[int, Any, str]:
    with (
        open_checkpoint(args.a, args.step_a, verify=False) as one,
        open_checkpoint(args.b, args.step_b, verify=False) as other,
        _progress(inspection.count_rows(one), "rows", args) as progress,
    ):
        result = inspection.compare(one, other, progress)
    lines = []
    for each in result["fields"]:
        name = f"{each['table']}.{each['field']}" if "field" in each else each["table"]
        if "only_in" in each:
            lines.append(f"{name}: only in {each['only_in']}")
        elif "shapes" in each:
            lines.append(f"{name}: shapes {each['shapes'][0]} and {each['shapes'][1]}")
        elif each["rows_differing"]:
            lines.append(
                f"{name}: {each['rows_differing']:,} of {each['rows']:,} rows differ, the first at id "
                f"{each['first_id_differing']}, by at most {each['max_abs_difference']:.6g}"
            )
    return 0 if result["same"] else 1, result, "\n".join(lines) or "no difference"


def _reshard(args: argparse.Namespace) -> tuple[int, Any, str]:
    with open_checkpoint(args.source, args.step, verify=False) as reader:
        total = inspection.count_rows(reader)
    with _progress(total, "rows", args) as progress:
        result = inspection.reshard(
            args.source,
            args.target,
            args.shards,
            args.strategy,
            args.step,
            progress,
            args.overwrite,
        )
    return 0, result, (
        f"wrote step {result['step']} to {result['directory']}: {_count(result['num_shards'], 'shard')} "
        f"({result['strategy']}), {_count(len(result['tables']), 'table')}"
    )  # fmt: skip


def _count(number: int, noun: str) -> str:
    """'1 shard', '2 shards'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _list(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"


@contextlib.contextmanager
def _progress(total: int, unit: str, args: argparse.Namespace) -> Iterator[Progress]:
    """A progress bar, where tqdm is installed and someone is looking."""
    if importlib.util.find_spec("tqdm") is None:
        yield lambda count: None
        return
    tqdm = importlib.import_module("tqdm").tqdm
    hidden = args.json or not sys.stderr.isatty()
    with tqdm(total=total, unit=f" {unit}", unit_scale=True, leave=False, disable=hidden) as bar:
        yield bar.update


def adder(commands: Any) -> tensorflow.AddCommand:
    """The function that adds a command with `--json` to a parser's `add_subparsers()`."""

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument("--json", action="store_true", help="print the result as JSON")
        made.set_defaults(run=run)
        return made

    return command


def add_commands(command: tensorflow.AddCommand) -> None:
    """Add all commands about checkpoints."""
    directory = "directory of the run, which holds step-<n>/"
    made = command(
        "inspect", _inspect, "list steps, and the tables of one: shapes, slots, bytes, norms"
    )
    made.add_argument("directory", type=path_option, help=directory)
    made.add_argument(
        "--step", type=int, help="the step to show (default: the newest complete one)"
    )
    made.add_argument("--no-norms", action="store_true", help="do not read the rows")

    made = command("verify", _verify, "check files against the hashes of their index")
    made.add_argument("directory", type=path_option, help=directory)
    made.add_argument("--step", type=int, help="the step to check (default: all complete ones)")

    made = command("diff", _diff, "compare two checkpoints row by row")
    made.add_argument("a", type=path_option, metavar="A", help=directory)
    made.add_argument("b", type=path_option, metavar="B", help="the other; may be the same")
    made.add_argument("--step-a", type=int, help="step of A (default: the newest complete one)")
    made.add_argument("--step-b", type=int, help="step of B (default: the newest complete one)")

    made = command("reshard", _reshard, "write a step again, for another number of shards")
    made.add_argument("source", type=path_option, metavar="IN", help=directory)
    made.add_argument("target", type=path_option, metavar="OUT", help="directory for the new step")
    made.add_argument("--shards", type=int, required=True, help="how many shards to write")
    made.add_argument("--strategy", choices=["mod", "div"], help="default: that of the step")
    made.add_argument("--step", type=int, help="default: the newest complete one")
    made.add_argument(
        "--overwrite", action="store_true", help="replace the step in OUT, and drop all later ones"
    )

    tensorflow.add_commands(command)

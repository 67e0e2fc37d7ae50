"""Parts of the examples' command lines: options and their types, and what a run prints and writes."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding.io.paths import path_option


def at_least(least: int) -> Callable[[str], int]:
    """An option type: whole numbers from `least` on."""

    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return whole_number


def between(low: float, high: float) -> Callable[[str], float]:
    """An option type: numbers above `low` and below `high`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above {low}, below {high}")
        return value

    return number


def seed_list(text: str) -> list[int]:
    """An option type: whole numbers separated by commas, each once."""
    seeds = [at_least(0)(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


def make_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """The parser of an example, whose help shows both texts as they are written."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_epoch_options(group: argparse._ArgumentGroup, default: Any) -> None:
    """Add the options of examples that train for epochs: --epochs, --dim, --lr and --seeds.

    Args:
        default: settings with `epochs`, `dim` and `lr`.
    """
    add, count = group.add_argument, at_least(1)
    text = "passes over the training samples (default: %(default)s)"
    add("--epochs", type=count, default=default.epochs, metavar="N", help=text)
    text = "embedding width (default: %(default)s)"
    add("--dim", type=count, default=default.dim, metavar="D", help=text)
    text = "learning rate of the tables (default: %(default)s)"
    add("--lr", type=between(0, math.inf), default=default.lr, metavar="X", help=text)
    text = "one run for each, of start values and everything else that is drawn (default: 0)"
    add("--seeds", type=seed_list, default=[0], metavar="N,N,…", help=text)


def add_validate_option(group: argparse._ArgumentGroup) -> None:
    """Add --validate."""
    text = "hold out the last fifth of the training part instead and leave the test part alone, "
    group.add_argument("--validate", action="store_true", help=text + "to choose hyper-parameters")


def add_output_options(group: argparse._ArgumentGroup, *, curves: str, saves: str) -> None:
    """Add --plot, --json and --checkpoint.

    Args:
        curves: what the plot shows.
        saves: when a checkpoint is saved, beside Ctrl-C and SIGTERM.
    """
    add = group.add_argument
    add("--plot", type=path_option, metavar="FILE", help=f"draw curves of {curves} into a .png")
    text = "write options, results and curves"
    add("--json", type=path_option, metavar="FILE", help=text)
    text = (
        f"resume from this directory if it holds checkpoints; save there {saves}, on Ctrl-C and on "
    )
    text += "SIGTERM"
    add("--checkpoint", type=path_option, metavar="DIR", help=text)


def add_replay_option(group: argparse._ArgumentGroup) -> None:
    """Add --replay and --no-replay, which `replays` reads."""
    text = "run most steps from their compiled program, without tracing: the same numbers for a part of "
    text += "the host's time (default: with one process, unless --pipelined)"
    group.add_argument("--replay", action=argparse.BooleanOptionalAction, help=text)


def replays(args: argparse.Namespace) -> bool:
    """True if steps shall be replayed: as asked, else where it can be done. Pipelined steps, and those of
    several CPU processes, are traced whatever is asked."""
    if args.replay is not None:
        return bool(args.replay)
    return not args.pipelined and tte.distributed.world_size() == 1


def check_outputs(
    *,
    plot: Path | None,
    results: Path | None,
    checkpoint: Path | None = None,
    export: Path | None = None,
) -> None:
    """Make sure, before a long training, that its results can be written; a collective call.

    Process 0 opens both files and tries both folders. An old file keeps its content until the end.

    Args:
        plot: the path of --plot, if it is given.
        results: the path of --json, if it is given.
        checkpoint: the folder of --checkpoint, if it is given.
        export: the folder of --export, if it is given.

    Raises:
        ValueError: one of them cannot be written, or nothing can draw a picture of that name.
    """
    problem = ""
    if tte.distributed.is_main():
        problem = _why_not_drawn(plot) or _why_not_opened("--plot", plot)
        problem = problem or _why_not_opened("--json", results)
        problem = problem or _why_not_filled("--checkpoint", checkpoint)
        problem = problem or _why_not_filled("--export", export)
    if tte.distributed.gather(torch.tensor([bool(problem)])).any():
        raise ValueError(problem or "process 0 cannot write its results; it says why")


def _why_not_opened(option: str, path: Path | None) -> str:
    if path is None:
        return ""
    new = not os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        return (
            f"{option} {path} cannot be written: {error.strerror}; give the path of a file, in a "
            "folder that you may write to"
        )
    return ""


def _why_not_filled(option: str, folder: Path | None) -> str:
    if folder is None:
        return ""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):  # only a file shows what a file system refuses
            pass
    except OSError as error:
        return (
            f"{option} {folder} cannot be written: {error.strerror}: {there}; give a folder, in one that "
            "you may write to"
        )
    return ""


def _why_not_drawn(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "--plot needs matplotlib: pip install matplotlib, or leave --plot out"
    if path.suffix[1:].lower() not in Figure().canvas.get_supported_filetypes():
        return f"--plot {path} does not name a picture; let it end with .png"
    return ""


def write_results(path: Path, args: argparse.Namespace, content: dict[str, Any]) -> None:
    """Write the options and `content` as JSON, and say where."""
    options = {key: str(v) if isinstance(v, Path) else v for key, v in vars(args).items()}
    path.write_text(json.dumps({"options": options, **content}, indent=1) + "\n")
    print(f"results: {path}")


def print_table(title: str, lines: list[tuple[str, str]]) -> None:
    """Two columns of plain text under a title."""
    left, right = (max(len(line[column]) for line in lines) for column in (0, 1))
    print(f"\n{title}\n{'-' * max(left + right + 3, len(title))}")
    for name, text in lines:
        print(f"{name:<{left}}   {text:>{right}}")

"""Learn online from a stream of clicks on items that appear, drift and vanish, by their raw string ids.

    python examples/train_stream.py                                   # about a minute
    python examples/train_stream.py --seeds 0,1,2 --plot curves.png
    python examples/train_stream.py --checkpoint run                  # kill it, and run it again
    python examples/train_stream.py --help

Read stream/data.py (the stream) and stream/model.py (tables and step) first; this file is the program
around them. Three ways to find the row of an item, with the same number of rows, see the same stream:

    dynamic   tte.DynamicVocabulary: items get rows when they appear, and lose them when others need them
    hashed    tte.HashedVocabulary: the row is a hash of the id, whatever else lies there
    frozen    the first items get rows, and keep them; all later ones share a few

The score is progressive validation: the AUC of predictions that were made for each click before it was
learned from.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("PJRT_DEVICE", "CPU")

from common.command_line import (
    at_least,
    check_outputs,
    print_table,
    seed_list,
    write_results,
)
from common.preemption import resume, run_program, save_checkpoint
from common.processes import no_bar
from stream.data import Stream
from stream.model import WAYS, Settings, Trainer
from stream.report import mean_auc, plot, window_auc
from tqdm import tqdm

from torch_tpu_embedding.io.paths import path_option
from torch_tpu_embedding.io.terminal import escape_what_it_lacks


def train(trainer: Trainer, steps: int, directory: Path | None, save_every: int) -> None:
    """Train to the last step; save on the way."""
    title = f"{trainer.settings.way}, seed {trainer.settings.seed}"
    with tqdm(total=steps, initial=trainer.step, desc=title, disable=no_bar()) as bar:
        while trainer.step < steps:
            trainer.advance()
            bar.update()
            if directory is not None and trainer.step % save_every == 0:
                save_checkpoint(directory, trainer)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default, count = Settings(), at_least(1)
    add = parser.add_argument
    add("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="(default: all three)")
    add("--seeds", type=seed_list, default=[0], metavar="N,N,…", help="(default: 0)")
    text = "clicks to learn from, in batches (default: %(default)s)"
    add("--steps", type=count, default=1500, metavar="N", help=text)
    text = "rows of the items' table (default: %(default)s)"
    add("--rows", type=at_least(100), default=default.rows, metavar="V", help=text)
    text = "clicks per step (default: %(default)s)"
    add("--batch-size", type=count, default=default.batch_size, metavar="B", help=text)
    add("--plot", type=path_option, metavar="FILE", help="draw the curves into a .png")
    add("--json", type=path_option, metavar="FILE", help="write options, results and curves")
    text = "resume from this directory if it holds checkpoints, and save there"
    add("--checkpoint", type=path_option, metavar="DIR", help=text)
    text = "steps between two checkpoints (default: %(default)s)"
    add("--save-every", type=count, default=250, metavar="N", help=text)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    escape_what_it_lacks()
    args = parse_args(argv)
    try:
        check_outputs(plot=args.plot, results=args.json, checkpoint=args.checkpoint)
    except ValueError as error:
        print(f"train_stream.py: error: {error}", file=sys.stderr)
        return 2
    curves: dict[str, list[list[float]]] = {way: [] for way in args.ways}
    ids = 0
    for seed in args.seeds:
        stream = Stream(args.rows, args.steps, args.batch_size, seed)
        ids = max(ids, stream.num_items)
        for way in args.ways:
            settings = Settings(way, seed, args.rows, args.batch_size)
            trainer = Trainer(settings, stream)
            directory = args.checkpoint / f"{way}-{seed}" if args.checkpoint else None
            try:
                resume(directory, trainer)
            except ValueError as error:
                print(f"train_stream.py: error: {error}", file=sys.stderr)
                return 2
            train(trainer, args.steps, directory, args.save_every)
            curves[way].append(window_auc(trainer.history["labels"], trainer.history["logits"]))
    lines = [(way, mean_auc(of_seeds)) for way, of_seeds in curves.items()]
    print_table(f"AUC before learning, {ids:,} items, {args.rows:,} rows", lines)
    if args.json:
        write_results(args.json, args, {"items": ids, "auc": curves})
    if args.plot:
        plot(args.plot, curves, args.steps)
        print(f"curves: {args.plot}")
    return 0


if __name__ == "__main__":
    run_program(main)

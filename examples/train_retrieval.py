"""Retrieve the movies that a user will watch next: two towers with embedding tables in `TPUEmbedding`.

    python examples/train_retrieval.py                      # a synthetic log
    python examples/train_retrieval.py --data ml-100k --seeds 0,1,2 --plot curves.png
    python examples/train_retrieval.py --data ml-100k --export served
    python examples/serve_retrieval.py served --user 7
    torchrun --nproc_per_node=2 examples/train_retrieval.py --data ml-100k
    python examples/train_retrieval.py --help

Read retrieval/model.py first (the towers, the loss with in-batch negatives, the step), then
retrieval/data.py (split, histories, scores) and retrieval/baselines.py; retrieval/export.py writes what
serve_retrieval.py reads, and common/ has what all examples share. This file is the program around them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("PJRT_DEVICE", "CPU")

import torch
from common.command_line import (
    add_epoch_options,
    add_output_options,
    add_validate_option,
    at_least,
    between,
    check_outputs,
    make_parser,
    print_table,
    write_results,
)
from common.epochs import train_epochs
from common.preemption import (
    PREEMPTED,
    report_stop,
    resume,
    run_program,
    stop_on_signals,
    stop_signal,
)
from common.processes import connect
from movielens.data import URL, hold_out, read
from retrieval.baselines import factorize, popularity
from retrieval.data import Samples, ranking_scores, synthetic
from retrieval.export import export
from retrieval.model import Settings, Trainer
from retrieval.report import Run, plot, result_lines

import torch_tpu_embedding as tte
from torch_tpu_embedding.io.paths import path_option
from torch_tpu_embedding.io.terminal import escape_what_it_lacks

WARM_UP = 10  # steps; with the first evaluation, all that may compile
FETCH_EVERY = 20  # steps; fetching a loss waits for the device

DESCRIPTION = """\
Train two towers, of users and of movies, on the XLA device that PJRT_DEVICE names (CPU unless set).

The last fifth of each user's movies by time is held out. Every movie that the user has not watched
before is ranked; recall@10 and MRR say how high the held-out ones come, beside two baselines: the most
popular movies, and implicit alternating least squares. The score is that of the last epoch, not of the
best one.
"""

EPILOG = f"""\
the files of --data, as GroupLens publishes them ({URL}):
  u.data   user, item, rating, timestamp, separated by tabs; every rating counts as watched
  u.item   movie id, title and 19 genre flags among 24 fields separated by |

exit status: 0, 2 if data or checkpoint are missing or wrong, 130 after Ctrl-C,
{PREEMPTED} after SIGTERM with --checkpoint: all is saved, run the same command again.
"""


def train_seed(trainer: Trainer, directory: Path | None, signals: list[int]) -> Run:
    """Train all epochs of one seed; score before the first epoch, score and save after each."""
    run = train_epochs(trainer, directory, signals, WARM_UP, FETCH_EVERY)
    scores = [dict(each) for each in trainer.history["evaluations"]]
    for each in scores:
        del each["step"]
    return Run(**vars(run), scores=scores)


def baselines(samples: Samples) -> dict[str, dict[str, float]]:
    """The scores of the two baselines."""
    return {
        "popularity": ranking_scores(popularity(samples.seen), samples),
        "matrix factorisation": ranking_scores(factorize(samples.seen), samples),
    }


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(DESCRIPTION, EPILOG)
    default, count = Settings(), at_least(1)

    group = parser.add_argument_group("data")
    add = group.add_argument
    text = "the unpacked ml-100k folder (default: a synthetic log)"
    add("--data", type=path_option, metavar="DIR", help=text)
    text = "users of the synthetic log (default: %(default)s)"
    add("--users", type=count, default=1000, metavar="N", help=text)
    add_validate_option(group)

    group = parser.add_argument_group("model and training")
    add = group.add_argument
    add_epoch_options(group, default)
    text = "samples per step, of all processes; the negatives of each (default: %(default)s)"
    add("--batch-size", type=at_least(2), default=default.batch_size, metavar="B", help=text)
    rate = between(0, math.inf)
    text = "scores are cosines divided by it (default: %(default)s)"
    add("--temperature", type=rate, default=default.temperature, metavar="X", help=text)

    group = parser.add_argument_group("reports, checkpoints and export")
    add = group.add_argument
    add_output_options(group, curves="loss and scores", saves="after each epoch")
    text = "write what serve_retrieval.py answers from, of the last seed"
    add("--export", type=path_option, metavar="DIR", help=text)
    text = "the user tables of --export as 8-bit codes, about a quarter of the bytes (default: float32)"
    add("--quantize", choices=["int8"], help=text)
    args = parser.parse_args(argv)
    if args.quantize and not args.export:
        parser.error("--quantize is of the export; give --export DIR too")
    return args


def load(args: argparse.Namespace) -> tuple[Samples, str]:
    """The samples, split as the options say, and the name of the data.

    Raises:
        ValueError: a file is missing or malformed, or there are too few samples for one batch.
    """
    ratings, movies = read(args.data) if args.data else synthetic(args.users)
    if args.validate:
        ratings = ratings[~hold_out(ratings)]
    samples = Samples(ratings, movies, hold_out(ratings))
    if len(samples.train) < args.batch_size or not samples.relevant.any():
        raise ValueError(
            f"there are {len(samples.train)} samples to train on and {int(samples.relevant.sum())} held "
            f"out; one batch of --batch-size {args.batch_size} and one held-out movie are the least"
        )
    return samples, "MovieLens 100K" if args.data else "synthetic log"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    escape_what_it_lacks()
    args = parse_args(argv)
    connect()
    try:
        check_outputs(
            plot=args.plot, results=args.json, checkpoint=args.checkpoint, export=args.export
        )
        samples, name = load(args)
    except (OSError, ValueError) as error:
        print(f"train_retrieval.py: error: {error}", file=sys.stderr)
        return 2
    # A step's work on the host is short: torch's own threads would take the cores that XLA is using.
    torch.set_num_threads(1)
    title = (
        f"{name}: {len(samples.train):,} samples to train on, {int(samples.relevant.sum()):,} later "
        f"ones for {'validation' if args.validate else 'test'}"
    )
    print(title)
    scores = baselines(samples)
    runs = []
    with stop_on_signals() as signals:
        for seed in args.seeds:
            trainer = Trainer(samples, settings_of(args, seed))
            if seed == args.seeds[0]:
                print(trainer.embedding.describe())
            directory = args.checkpoint / f"seed-{seed}" if args.checkpoint else None
            try:
                resume(directory, trainer)
            except ValueError as error:
                print(f"train_retrieval.py: error: {error}", file=sys.stderr)
                return 2
            with closing(trainer.batches):
                runs.append(train_seed(trainer, directory, signals))
            if stopped := stop_signal(signals):
                return report_stop(stopped, trainer.step, directory)
    if args.export and (line := export(trainer, args.export, args.quantize)):
        print(line)
    report(args, title, runs, scores)
    return 0


def settings_of(args: argparse.Namespace, seed: int) -> Settings:
    """The settings of the run with one of the seeds."""
    return Settings(
        epochs=args.epochs,
        batch_size=args.batch_size,
        dim=args.dim,
        lr=args.lr,
        temperature=args.temperature,
        seed=seed,
    )


def report(
    args: argparse.Namespace, title: str, runs: list[Run], scores: dict[str, dict[str, float]]
) -> None:
    """Print the final table, and let process 0 write the files of --plot and --json."""
    lines = result_lines(runs, scores)
    print_table(title, lines)
    if args.plot and tte.distributed.is_main():
        plot(args.plot, title, runs, scores)
        print(f"\ncurves: {args.plot}")
    if args.json and tte.distributed.is_main():
        content = {"results": dict(lines), "baselines": scores}
        write_results(args.json, args, {**content, "runs": [asdict(run) for run in runs]})


if __name__ == "__main__":
    run_program(main)

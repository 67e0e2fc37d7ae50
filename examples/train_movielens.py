"""Predict MovieLens ratings with embedding tables in `TPUEmbedding`.

    python examples/train_movielens.py --data ml-100k
    python examples/train_movielens.py --data ml-100k --seeds 0,1,2 --plot curves.png --check
    torchrun --nproc_per_node=2 examples/train_movielens.py --data ml-100k
    python examples/train_movielens.py --help

Read movielens/data.py first (the split, the histories, the baselines), then movielens/model.py (the tables,
the model, its step), common/epochs.py and common/trainer.py (the loop around a step); movielens/report.py
has table and plot, and common/ the rest that the examples share. This file is the program around them:
options, and a report.
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
    add_replay_option,
    add_validate_option,
    at_least,
    between,
    check_outputs,
    make_parser,
    print_table,
    replays,
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
from common.tables import add_tables_option
from movielens.data import URL, Movies, Ratings, Samples, choose_biases, hold_out, read, rmse
from movielens.model import Settings, Trainer
from movielens.report import Run, plot, result_lines

import torch_tpu_embedding as tte
from torch_tpu_embedding.io.paths import path_option
from torch_tpu_embedding.io.terminal import escape_what_it_lacks

WARM_UP = 5  # steps; with the first evaluation, all that may compile
FETCH_EVERY = 20  # steps; fetching a loss waits for the device
MARGIN = 0.02  # by which --check wants both baselines beaten
SHOWN = ("Star Wars (1977)", "Toy Story (1995)", "Silence of the Lambs, The (1991)")

NO_DATA = f"""\
train_movielens.py: --data is missing. This example trains on MovieLens 100K, which its licence does
not let us pass on. To get it:

  1. read the licence and download ml-100k.zip (5 MB) from GroupLens:
         {URL}
  2. unzip ml-100k.zip
  3. python examples/train_movielens.py --data ml-100k
"""


def train_seed(trainer: Trainer, directory: Path | None, signals: list[int]) -> Run:
    """Train all epochs of one seed; score before the first epoch, score and save after each."""
    run = train_epochs(trainer, directory, signals, WARM_UP, FETCH_EVERY)
    return Run(**vars(run), rmses=[each["rmse"] for each in trainer.history["evaluations"]])


def checkpoint_directory(args: argparse.Namespace, seed: int) -> Path | None:
    """The folder for the checkpoints of one seed; None without --checkpoint."""
    directory: Path | None = args.checkpoint
    return directory / f"seed-{seed}" if directory else None


def baselines(samples: Samples) -> tuple[dict[str, float], str]:
    """Held-out RMSE of the two baselines, and a text about the regularisation of the second."""
    test = samples.ratings[samples.held_out]
    users = int(samples.ratings.user.max()) + 1
    biases, (user, movie) = choose_biases(samples.train, users, len(samples.movies))
    scores = {
        "global mean": rmse(samples.train.stars.mean(), test.stars),
        "user and movie biases": rmse(biases.predict(test), test.stars),
    }
    return scores, f"penalties {user:g} and {movie:g}, chosen on the last fifth of training"


def print_similar(trainer: Trainer) -> None:
    """Neighbours of a few movies in the trained tables."""
    titles = trainer.samples.movies.titles
    known = [title for title in SHOWN if title in titles] or titles[:1]
    print("\nnearest movies, by the cosine of their rows in the movie table:")
    for title in known:
        near = ", ".join(titles[each] for each in trainer.similar(titles.index(title)))
        print(f"  {title}: {near}")


DESCRIPTION = """\
Train a model of MovieLens 100K ratings on the XLA device that PJRT_DEVICE names (CPU unless set).

The last fifth of each user's ratings by time is held out; all that the model knows of a user comes
from earlier ratings outside that part. The result is compared with two baselines: the mean of all
training ratings, and regularised biases of users and movies. The score is that of the last epoch,
not of the best one.
"""

EPILOG = f"""\
the files of --data, as GroupLens publishes them ({URL}):
  u.data   user, item, rating, timestamp, separated by tabs
  u.item   movie id, title and 19 genre flags among 24 fields separated by |

exit status: 0, 1 if --check fails, 2 if data or checkpoint are missing or wrong, 130 after Ctrl-C,
{PREEMPTED} after SIGTERM with --checkpoint: all is saved, run the same command again.
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(DESCRIPTION, EPILOG)
    default = Settings()

    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data", type=path_option, metavar="DIR", help="the unpacked ml-100k folder")
    add_validate_option(group)

    group = parser.add_argument_group("model and training")
    add = group.add_argument
    add_epoch_options(group, default)
    text = "samples per step (default: %(default)s)"
    add("--batch-size", type=at_least(1), default=default.batch_size, metavar="B", help=text)
    add_tables_option(group)
    text = "read the rows of the next step while this one runs; tables are one step older then"
    add("--pipelined", action="store_true", help=text)
    add_replay_option(group)

    group = parser.add_argument_group("reports and checkpoints")
    add = group.add_argument
    text = f"exit with 1 unless each run beats both baselines by X stars (default X: {MARGIN})"
    add("--check", type=between(0, math.inf), nargs="?", const=MARGIN, metavar="X", help=text)
    add_output_options(group, curves="loss and RMSE", saves="after each epoch")
    return parser.parse_args(argv)


def load(args: argparse.Namespace) -> Samples:
    """The samples, split as the options say.

    Raises:
        ValueError: a file is missing or malformed, or there are too few ratings for one batch.
    """
    data: tuple[Ratings, Movies] = read(args.data)
    ratings, movies = data
    if args.validate:
        ratings = ratings[~hold_out(ratings)]
    samples = Samples(ratings, movies, hold_out(ratings))
    if len(samples.train) < args.batch_size or not samples.held_out.any():
        raise ValueError(
            f"{args.data} has {len(samples.train)} ratings to train on and "
            f"{int(samples.held_out.sum())} held out; one batch of --batch-size {args.batch_size} "
            "and one held-out rating are the least"
        )
    return samples


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    escape_what_it_lacks()
    args = parse_args(argv)
    if args.data is None:
        print(NO_DATA, file=sys.stderr, end="")
        return 2
    connect()
    try:
        check_outputs(plot=args.plot, results=args.json, checkpoint=args.checkpoint)
        samples = load(args)
    except (OSError, ValueError) as error:
        print(f"train_movielens.py: error: {error}", file=sys.stderr)
        return 2
    # A step's work on the host is short. torch's own threads would mostly wait for the cores that
    # XLA is using, which costs more than it gains where cores are few.
    torch.set_num_threads(1)
    part = "validation" if args.validate else "test"
    title = (
        f"MovieLens 100K: {len(samples.train):,} ratings to train on, "
        f"{int(samples.held_out.sum()):,} later ones for {part}"
    )
    scores, how = baselines(samples)
    print(title)
    print(f"bias baseline: {how}")

    runs, fallbacks = [], tte.runtime.cpu_fallbacks()
    with stop_on_signals() as signals:
        for seed in args.seeds:
            trainer = Trainer(samples, settings_of(args, seed))
            if replays(args):
                trainer.replay_steps()
            if seed == args.seeds[0]:
                print(trainer.embedding.describe())
            directory = checkpoint_directory(args, seed)
            try:
                resume(directory, trainer)
            except ValueError as error:
                print(f"train_movielens.py: error: {error}", file=sys.stderr)
                return 2
            with closing(trainer.batches):
                runs.append(train_seed(trainer, directory, signals))
            if stopped := stop_signal(signals):
                return report_stop(stopped, trainer.step, directory)
    print_similar(trainer)
    report(args, title, result_lines(runs, scores, fallbacks), runs, scores)
    return 0 if args.check is None or passes(args.check, runs, scores) else 1


def settings_of(args: argparse.Namespace, seed: int) -> Settings:
    """The settings of the run with one of the seeds."""
    return Settings(
        args.epochs,
        args.batch_size,
        args.dim,
        args.lr,
        seed=seed,
        pipelined=args.pipelined,
        tables=args.tables,
    )


def report(
    args: argparse.Namespace,
    title: str,
    lines: list[tuple[str, str]],
    runs: list[Run],
    scores: dict[str, float],
) -> None:
    """Print the final table, and let process 0 write the files of --plot and --json."""
    print_table(title, lines)
    if args.plot and tte.distributed.is_main():
        plot(args.plot, title, runs, scores)
        print(f"\ncurves: {args.plot}")
    if args.json and tte.distributed.is_main():
        content = {"results": dict(lines), "baselines": scores}
        write_results(args.json, args, {**content, "runs": [asdict(run) for run in runs]})


def passes(wanted: float, runs: list[Run], scores: dict[str, float]) -> bool:
    """True if each run beats both baselines by `wanted` stars; says so."""
    worst = max(run.rmses[-1] for run in runs)
    margin = min(scores.values()) - worst
    passed = margin >= wanted
    verdict = "passed" if passed else "FAILED"
    print(f"\ncheck {verdict}: the worst run is {margin:.4f} better, {wanted:g} wanted")
    return passed


if __name__ == "__main__":
    run_program(main)

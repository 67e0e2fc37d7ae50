"""Predict MovieLens ratings with embedding tables in `TPUEmbedding`.

    python examples/train_movielens.py --data ml-100k
    python examples/train_movielens.py --data ml-100k --seeds 0,1,2 --plot curves.png --check
    torchrun --nproc_per_node=2 examples/train_movielens.py --data ml-100k
    python examples/train_movielens.py --help

Read movielens_data.py first (the split, the histories, the baselines), then movielens_model.py (the
tables, the model, its steps); movielens_report.py has table and plot; background.py prepares batches in a
thread, preemption.py stops, saves and resumes, processes.py is what several processes need. This file is
the program around them.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("PJRT_DEVICE", "CPU")

import torch
from common.command_line import at_least, between, write_results
from common.preemption import (
    PREEMPTED,
    report_stop,
    resume,
    run_program,
    save_checkpoint,
    settle,
    stop_on_signals,
    stop_signal,
)
from common.processes import connect, fetch_losses, no_bar
from movielens.data import URL, Movies, Ratings, Samples, choose_biases, hold_out, read, rmse
from movielens.model import Settings, Trainer
from movielens.report import Run, plot, print_table, result_lines
from tqdm import tqdm

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


def train(trainer: Trainer, args: argparse.Namespace, signals: list[int]) -> Run:
    """Train until the last epoch or a signal to any process, with an evaluation before the first epoch and
    after each, and a checkpoint at the end."""
    settings, history, first = trainer.settings, trainer.history, trainer.step
    losses, rmses, epoch_steps = history["losses"], history["rmses"], trainer.steps_per_epoch
    pending: list[torch.Tensor] = []  # losses not fetched yet
    directory = checkpoint_directory(args, settings.seed)
    saved = first if first else None  # the step of the newest checkpoint
    label = f"seed {settings.seed}"

    def evaluate() -> None:
        score = trainer.evaluate()
        epoch, beyond = divmod(trainer.step, epoch_steps)
        if beyond or len(rmses) > epoch:
            return
        rmses.append(score)
        if epoch:
            mean = statistics.fmean(losses[-epoch_steps:])
            tqdm.write(
                f"{label}   epoch {epoch:>2}   train loss {mean:.4f}   held-out RMSE {score:.4f}"
            )

    def fetch() -> None:
        nonlocal clock
        losses.extend(fetch_losses(pending))
        bar.update(len(pending))
        pending.clear()
        now = time.perf_counter()
        history["seconds"] += now - clock
        clock = now

    begin = time.perf_counter() - history["all_seconds"]
    bar = tqdm(
        total=trainer.total_steps, initial=first, desc=label, unit=" steps", disable=no_bar()
    )
    with bar:
        # Evaluate once before training: it is the start of the curve, and compiles the evaluation.
        evaluate()
        warm_compiles, stopping = tte.runtime.compile_count(), 0
        clock = time.perf_counter()
        while trainer.step < trainer.total_steps and not stopping:
            pending.append(trainer.advance())
            stopping = stop_signal(signals)
            step = trainer.step
            if step - first == WARM_UP - 2:
                settle(trainer.embedding)  # if pipelined, evaluations and saves will do so, too
            if step - first <= WARM_UP:
                warm_compiles = tte.runtime.compile_count()
            epoch_ends = step % epoch_steps == 0
            if step % FETCH_EVERY == 0 or epoch_ends or stopping:
                fetch()
                shown = {
                    "loss": f"{statistics.fmean(losses[-FETCH_EVERY:]):.4f}",
                    "held-out RMSE": f"{rmses[-1]:.4f}",
                    "samples/s": f"{len(losses) * settings.batch_size / history['seconds']:,.0f}",
                }
                bar.set_postfix(shown, refresh=False)
            if epoch_ends and not stopping:
                evaluate()
                if directory:
                    history["all_seconds"] = time.perf_counter() - begin
                    save_checkpoint(directory, trainer)
                    saved = step
                clock = time.perf_counter()
    history["all_seconds"] = time.perf_counter() - begin
    if directory and saved != trainer.step:
        save_checkpoint(directory, trainer)
    return Run(
        settings.seed,
        losses,
        rmses,
        history["all_seconds"],
        len(losses) * settings.batch_size / history["seconds"],
        tte.runtime.compile_count() - warm_compiles,
    )


def checkpoint_directory(args: argparse.Namespace, seed: int) -> Path | None:
    """Where the run of one seed is saved, if at all."""
    directory: Path | None = args.checkpoint
    return directory / f"seed-{seed}" if directory else None


def baselines(samples: Samples) -> tuple[dict[str, float], str]:
    """Held-out RMSE of the two baselines, and how the second was regularised."""
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


def seed_list(text: str) -> list[int]:
    """An option type: whole numbers separated by commas, each once."""
    seeds = [at_least(0)(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default, count = Settings(), at_least(1)

    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data", type=path_option, metavar="DIR", help="the unpacked ml-100k folder")
    text = "hold out the last fifth of the training part instead and leave the test part alone, "
    add("--validate", action="store_true", help=text + "to choose hyper-parameters")

    group = parser.add_argument_group("model and training")
    add = group.add_argument
    text = "passes over the training samples (default: %(default)s)"
    add("--epochs", type=count, default=default.epochs, metavar="N", help=text)
    text = "samples per step (default: %(default)s)"
    add("--batch-size", type=count, default=default.batch_size, metavar="B", help=text)
    text = "embedding width (default: %(default)s)"
    add("--dim", type=count, default=default.dim, metavar="D", help=text)
    text = "learning rate of the tables (default: %(default)s)"
    add("--lr", type=between(0, math.inf), default=default.lr, metavar="X", help=text)
    text = "one run for each, of start values, order and dropout (default: 0)"
    add("--seeds", type=seed_list, default=[0], metavar="N,N,…", help=text)
    text = "read the rows of the next step while this one runs; tables are one step older then"
    add("--pipelined", action="store_true", help=text)

    group = parser.add_argument_group("reports and checkpoints")
    add = group.add_argument
    text = f"exit with 1 unless each run beats both baselines by X stars (default X: {MARGIN})"
    add("--check", type=between(0, math.inf), nargs="?", const=MARGIN, metavar="X", help=text)
    add("--plot", type=path_option, metavar="FILE", help="draw loss and RMSE curves into a .png")
    add("--json", type=path_option, metavar="FILE", help="write options, results and curves")
    text = "resume from this directory if it holds checkpoints; save there after each epoch, on "
    text += "Ctrl-C and on SIGTERM"
    add("--checkpoint", type=path_option, metavar="DIR", help=text)
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

    runs = []
    with stop_on_signals() as signals:
        for seed in args.seeds:
            settings = Settings(
                args.epochs, args.batch_size, args.dim, args.lr, seed=seed, pipelined=args.pipelined
            )
            trainer = Trainer(samples, settings)
            if seed == args.seeds[0]:
                print(trainer.embedding.describe())
            directory = checkpoint_directory(args, seed)
            try:
                resume(directory, trainer)
            except ValueError as error:
                print(f"train_movielens.py: error: {error}", file=sys.stderr)
                return 2
            with closing(trainer.batches):
                runs.append(train(trainer, args, signals))
            if stopped := stop_signal(signals):
                return report_stop(stopped, trainer.step, directory)
    print_similar(trainer)
    lines = result_lines(runs, scores)
    print_table(title, lines)

    if args.plot and tte.distributed.is_main():
        plot(args.plot, title, runs, scores)
        print(f"\ncurves: {args.plot}")
    if args.json and tte.distributed.is_main():
        content = {"results": dict(lines), "baselines": scores}
        write_results(args.json, args, {**content, "runs": [asdict(run) for run in runs]})
    if args.check is not None:
        worst = max(run.rmses[-1] for run in runs)
        margin = min(scores.values()) - worst
        passed = margin >= args.check
        verdict = "passed" if passed else "FAILED"
        print(f"\ncheck {verdict}: the worst run is {margin:.4f} better, {args.check:g} wanted")
        return 0 if passed else 1
    return 0


if __name__ == "__main__":
    run_program(main)

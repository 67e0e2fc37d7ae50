"""Predict MovieLens ratings with embedding tables in `TPUEmbedding`.

    python examples/train_movielens.py --data ml-100k
    python examples/train_movielens.py --data ml-100k --seeds 0,1,2 --plot curves.png --check
    torchrun --nproc_per_node=2 examples/train_movielens.py --data ml-100k
    python examples/train_movielens.py --help

Read movielens_data.py first (the split, the histories, the baselines), then movielens_model.py (the
tables, the model, its steps); processes.py is what several processes need. This file is the program
around them.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("PJRT_DEVICE", "CPU")

import torch
from command_line import at_least, between, write_results
from movielens_data import URL, Movies, Ratings, Samples, choose_biases, hold_out, read, rmse
from movielens_model import Settings, Trainer
from processes import connect, fetch_losses, no_bar
from tqdm import tqdm

import torch_tpu_embedding as tte

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


@dataclass
class Run:
    """What one training run measured."""

    seed: int
    losses: list[float]  # of each step
    rmses: list[float]  # before the first epoch, and after each
    seconds: float
    samples_per_second: float
    compiles_after_warm_up: int


def train(trainer: Trainer) -> Run:
    """Train for all epochs, with an evaluation before the first and after each."""
    settings, seconds = trainer.settings, 0.0
    losses: list[float] = []
    pending: list[torch.Tensor] = []  # losses not fetched yet
    begin = time.perf_counter()
    # Evaluate once before training: it is the start of the curve, and compiles the evaluation.
    rmses = [trainer.evaluate()]
    warm_compiles = tte.runtime.compile_count()
    label = f"seed {settings.seed}"
    with tqdm(total=trainer.total_steps, desc=label, unit=" steps", disable=no_bar()) as bar:
        for epoch in range(1, settings.epochs + 1):
            clock = time.perf_counter()
            for step, loss in enumerate(trainer.epoch(), 1):
                pending.append(loss)
                if len(losses) + len(pending) <= WARM_UP:
                    warm_compiles = tte.runtime.compile_count()
                if step % FETCH_EVERY and step < trainer.steps_per_epoch:
                    continue
                losses += fetch_losses(pending)
                elapsed = seconds + time.perf_counter() - clock
                shown = {
                    "loss": f"{statistics.fmean(losses[-FETCH_EVERY:]):.4f}",
                    "held-out RMSE": f"{rmses[-1]:.4f}",
                    "samples/s": f"{len(losses) * settings.batch_size / elapsed:,.0f}",
                }
                bar.set_postfix(shown, refresh=False)
                bar.update(len(pending))
                pending.clear()
            seconds += time.perf_counter() - clock
            rmses.append(trainer.evaluate())
            mean = statistics.fmean(losses[-trainer.steps_per_epoch :])
            tqdm.write(
                f"{label}   epoch {epoch:>2}   train loss {mean:.4f}   held-out RMSE {rmses[-1]:.4f}"
            )
    return Run(
        settings.seed,
        losses,
        rmses,
        time.perf_counter() - begin,
        len(losses) * settings.batch_size / seconds,
        tte.runtime.compile_count() - warm_compiles,
    )


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


def result_lines(runs: list[Run], scores: dict[str, float]) -> list[tuple[str, str]]:
    """The final table: what, and its value."""
    final = [run.rmses[-1] for run in runs]
    mean = statistics.fmean(final)
    text = f"{mean:.4f}"
    if len(runs) > 1:
        text += f" ± {statistics.stdev(final):.4f}"
    lines = [(f"RMSE, {name}", f"{score:.4f}") for name, score in scores.items()]
    lines += [("RMSE, this model", text)]
    lines += [(f"better than {name} by", f"{score - mean:.4f}") for name, score in scores.items()]
    last = statistics.fmean(statistics.fmean(run.losses[-50:]) for run in runs)
    fallbacks = ", ".join(tte.runtime.cpu_fallbacks()) or "none"
    return [
        *lines,
        ("train loss, last 50 steps", f"{last:.4f}"),
        ("training samples/s", f"{statistics.median(r.samples_per_second for r in runs):,.0f}"),
        ("seconds per run", f"{statistics.fmean(run.seconds for run in runs):.0f}"),
        ("compiles", str(tte.runtime.compile_count())),
        ("compiles after warm-up", str(sum(run.compiles_after_warm_up for run in runs))),
        ("operators that fell back to the host", fallbacks),
    ]


def print_table(title: str, lines: list[tuple[str, str]]) -> None:
    """Two columns of plain text under a title."""
    left, right = (max(len(line[column]) for line in lines) for column in (0, 1))
    print(f"\n{title}\n{'-' * max(left + right + 3, len(title))}")
    for name, text in lines:
        print(f"{name:<{left}}   {text:>{right}}")


def print_similar(trainer: Trainer) -> None:
    """Neighbours of a few movies in the trained tables."""
    titles = trainer.samples.movies.titles
    known = [title for title in SHOWN if title in titles] or titles[:1]
    print("\nnearest movies, by the cosine of their rows in the movie table:")
    for title in known:
        near = ", ".join(titles[each] for each in trainer.similar(titles.index(title)))
        print(f"  {title}: {near}")


def plot(path: Path, title: str, runs: list[Run], scores: dict[str, float]) -> None:
    """Training loss of each step and held-out RMSE of each epoch, as one picture."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    epochs = len(runs[0].rmses) - 1
    for number, run in enumerate(runs):
        color, name = f"C{number}", f"seed {run.seed}"
        count = min(4 * epochs, len(run.losses))  # single steps are noisy: show quarters of epochs
        parts = torch.tensor(run.losses).tensor_split(count)
        middles = [(part + 0.5) * epochs / count for part in range(count)]
        means = [float(part.mean()) for part in parts]
        left.plot(middles, means, color=color, linewidth=1.4, label=name)
        right.plot(range(epochs + 1), run.rmses, "o-", color=color, markersize=4, label=name)
    left.set(xlabel="epoch", ylabel="mean squared error", title="Training loss")
    for (name, score), style in zip(scores.items(), (":", "--"), strict=True):
        right.axhline(score, color="0.35", linestyle=style, label=f"{name}, {score:.3f}")
    right.set(xlabel="epoch", ylabel="RMSE in stars", title="Held-out RMSE")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


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

exit status: 0, 1 if --check fails, 2 if the data is missing or malformed.
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
    add("--data", type=Path, metavar="DIR", help="the unpacked ml-100k folder")
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

    group = parser.add_argument_group("reports")
    add = group.add_argument
    text = f"exit with 1 unless each run beats both baselines by X stars (default X: {MARGIN})"
    add("--check", type=between(0, math.inf), nargs="?", const=MARGIN, metavar="X", help=text)
    add("--plot", type=Path, metavar="FILE", help="draw loss and RMSE curves into a .png")
    add("--json", type=Path, metavar="FILE", help="write options, results and curves")
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
    for seed in args.seeds:
        settings = Settings(args.epochs, args.batch_size, args.dim, args.lr, seed=seed)
        trainer = Trainer(samples, settings)
        if seed == args.seeds[0]:
            print(trainer.embedding.describe())
        runs.append(train(trainer))
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
    try:
        status = main()
        tte.distributed.shutdown()
        sys.exit(status)
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        sys.exit(130)

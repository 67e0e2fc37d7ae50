"""Train a DLRM click model with its embedding tables in `TPUEmbedding`.

    python examples/train_dlrm.py                           # synthetic click log, 1 to 2 minutes
    python examples/train_dlrm.py --data train.txt.gz       # Criteo's Kaggle log, or a part of it
    torchrun --nproc_per_node=4 examples/train_dlrm.py      # the same model on four processes
    python examples/train_dlrm.py --help

Read dlrm/model.py first (the model, its tables, its step), then dlrm/data.py (the log, and its batches) and
common/trainer.py (the loop around a step); dlrm/report.py has metrics, table and plot, and common/ the
rest that the examples share. This file is the program around them: options, and a report.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from typing import Any

os.environ.setdefault("PJRT_DEVICE", "CPU")

import torch
from common.command_line import (
    add_output_options,
    add_replay_option,
    at_least,
    between,
    check_outputs,
    make_parser,
    replays,
    write_results,
)
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
from common.trainer import Measured, Schedule, train
from dlrm.data import ClickLog, read_criteo, synthetic
from dlrm.model import LEARNING_RATES, Settings, Trainer
from dlrm.report import plot, result_table

import torch_tpu_embedding as tte
from torch_tpu_embedding.io.paths import path_option
from torch_tpu_embedding.io.terminal import escape_what_it_lacks

WARM_UP = 20  # steps; with the first evaluation, all that may compile
SAMPLES = 700_000


def results_of(trainer: Trainer, measured: Measured) -> dict[str, Any]:
    """The results of a run, by the names in `dlrm.report.TABLE`."""
    losses = trainer.history["loss"]
    return {
        "steps": trainer.step,
        "train_loss": statistics.fmean(losses[-100:]) if losses else None,
        **measured.scores,
        "samples_per_second": measured.samples_per_second,
        "compiles": tte.runtime.compile_count(),
        "compiles_after_warm_up": measured.compiles_after_warm_up,
    }


DESCRIPTION = """\
Train a DLRM click model on the XLA device that PJRT_DEVICE names (CPU unless set).

Without --data it trains on a synthetic click log in Criteo's shape, whose best possible AUC is
known. Beside the DLRM, a model of the same layers without embeddings is trained on the same
batches, to show what the embeddings are worth.
"""

EPILOG = f"""\
the format of --data:
  Criteo's train.txt, plain or .gz (by its name): one sample a line, 40 fields separated by tabs,
      label  I1 .. I13  C1 .. C26
  or the same fields separated by commas; a header line label,I1,..,I13,C1,..,C26 is skipped.
  The label is 0 or 1 (clicked); I fields are numbers, used as log(1 + max(I, 0)); C fields have up
  to 8 hexadecimal digits. I and C fields may be empty: they count as 0 and as id 0.

examples:
  python examples/train_dlrm.py --plot curves.png --json results.json
  python examples/train_dlrm.py --checkpoint run1     (Ctrl-C saves; the same command resumes,
                                                       on any number of processes)
  python examples/train_dlrm.py --data train.txt.gz --limit 5000000 --batch-size 4096 --dim 32

exit status: 0; 2 if options or data are wrong; 130 after Ctrl-C; {PREEMPTED} after SIGTERM with
--checkpoint: all is saved, run the same command again.
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(DESCRIPTION, EPILOG)
    add_data_options(parser)
    add_model_options(parser)
    add_report_options(parser)
    args = parser.parse_args(argv)
    table_lr, dense_lr = LEARNING_RATES[args.optimizer]
    args.lr = args.lr or table_lr
    args.dense_lr = args.dense_lr or dense_lr
    return args


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose or make a click log."""
    count, rate = at_least(1), between(0, math.inf)
    group = parser.add_argument_group("data")
    add = group.add_argument
    add(
        "--data",
        type=path_option,
        metavar="FILE",
        help="a Criteo file, see below (default: synthetic)",
    )
    add("--limit", type=count, metavar="N", help="read the first N samples of it (default: all)")
    add(
        "--categories",
        choices=("hash", "index"),
        default="hash",
        help="its C fields: a stable hash (hash_ids in dlrm/data.py), or an index of the values in the "
        "training part, where unseen ones get id 0 (default: %(default)s)",
    )
    text = "ids per C field, at most, id 0 included (default: %(default)s)"
    add("--vocabulary", type=at_least(2), default=100_000, metavar="N", help=text)
    text = "size of the synthetic log, with its held-out part (default: %(default)s)"
    add("--samples", type=count, default=SAMPLES, metavar="N", help=text)
    text = "multiplies its vocabularies of 3 to 100,000 ids (default: %(default)s)"
    add("--scale", type=rate, default=1.0, metavar="X", help=text)
    text = "last part of the samples, kept from training (default: %(default)s)"
    add("--held-out", type=between(0, 1), default=0.1, metavar="PART", help=text)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that decide how training goes: its settings and its length."""
    count, rate = at_least(1), between(0, math.inf)
    group = parser.add_argument_group("model and training")
    add = group.add_argument
    add("--dim", type=count, default=16, metavar="D", help="embedding width (default: %(default)s)")
    text = "samples per step (default: %(default)s)"
    add("--batch-size", type=count, default=1024, metavar="B", help=text)
    length = group.add_mutually_exclusive_group()
    text = "passes over the training samples (default: %(default)s)"
    length.add_argument("--epochs", type=count, default=1, metavar="N", help=text)
    text = "steps in all, those before a resume included (default: by --epochs)"
    length.add_argument("--steps", type=count, metavar="N", help=text)
    text = "of the tables and of the dense layers (default: %(default)s)"
    add("--optimizer", choices=tuple(LEARNING_RATES), default="adagrad", help=text)
    tables, dense = (", ".join(f"{o} {r[k]}" for o, r in LEARNING_RATES.items()) for k in (0, 1))
    add("--lr", type=rate, metavar="X", help=f"learning rate of the tables (default: {tables})")
    text = f"learning rate of the dense layers (default: {dense})"
    add("--dense-lr", type=rate, metavar="X", help=text)
    text = "of data, start values and order (default: %(default)s)"
    add("--seed", type=at_least(0), default=0, metavar="N", help=text)
    add_tables_option(group)
    text = "read the rows of the next step while this one runs; tables are one step older then"
    add("--pipelined", action="store_true", help=text)
    add_replay_option(group)
    text = "do not train the dense-only model beside"
    add("--no-baseline", dest="baseline", action="store_false", help=text)


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """The options that say when to report, and where to save."""
    count = at_least(1)
    group = parser.add_argument_group("reports and checkpoints")
    add = group.add_argument
    text = "evaluate every N steps (default: %(default)s)"
    add("--eval-every", type=count, default=100, metavar="N", help=text)
    text = "fetch losses and move the progress bar every N steps (default: %(default)s)"
    add("--log-every", type=count, default=10, metavar="N", help=text)
    saves = "every --checkpoint-every steps, at the end"
    add_output_options(group, curves="loss and AUC", saves=saves)
    add("--checkpoint-every", type=count, default=500, metavar="N", help="(default: %(default)s)")


def load_data(args: argparse.Namespace) -> tuple[ClickLog, str]:
    """The click log and its name for titles.

    Raises:
        ValueError: the file is malformed, or there are too few samples for one batch.
    """
    if args.data:
        if not args.data.is_file():
            raise ValueError(f"--data {args.data} is no file; give the path of a Criteo train.txt")
        name = args.data.name
        log = read_criteo(
            args.data,
            categories=args.categories,
            vocabulary=args.vocabulary,
            limit=args.limit,
            held_out=args.held_out,
        )
    else:
        name = "synthetic click log"
        log = synthetic(args.samples, scale=args.scale, held_out=args.held_out, seed=args.seed)
    if log.train_rows < args.batch_size or log.train_rows == len(log):
        raise ValueError(
            f"{len(log)} samples make {log.train_rows} for training and "
            f"{len(log) - log.train_rows} held out with --held-out {args.held_out}; one batch of "
            f"--batch-size {args.batch_size} and one held-out sample are the least: use more samples "
            "or smaller batches"
        )
    return log, name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    escape_what_it_lacks()
    args = parse_args(argv)
    connect()
    if os.environ["PJRT_DEVICE"] == "CPU":
        # Host work is small index arrays; torch's threads would only take the cores from XLA's.
        torch.set_num_threads(1)
    try:
        check_outputs(plot=args.plot, results=args.json, checkpoint=args.checkpoint)
        log, name = load_data(args)
        settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
        trainer = Trainer(log, settings)
        args.steps = args.steps or args.epochs * trainer.order.batches
        if replays(args):
            trainer.replay_steps()
        resume(args.checkpoint, trainer)
    except (OSError, ValueError) as error:
        print(f"train_dlrm.py: error: {error}", file=sys.stderr)
        return 2
    rows = sum(column.vocabulary for column in log.columns)
    title = (
        f"DLRM on {name}: {len(log):,} samples, {len(log.columns)} tables with {rows:,} rows of "
        f"{args.dim}, {args.optimizer}, batch {args.batch_size:,}"
    )
    print(title)
    print(f"{args.steps:,} steps; the first evaluation and the first step compile for some seconds")
    schedule = Schedule(
        args.steps,
        WARM_UP,
        args.log_every,
        args.eval_every,
        args.checkpoint_every,
        args.checkpoint,
    )
    with stop_on_signals() as signals, closing(trainer.batches):
        measured = train(trainer, schedule, signals)
        stopped = stop_signal(signals)
    if stopped:
        return report_stop(stopped, trainer.step, args.checkpoint)
    results = results_of(trainer, measured)
    print(f"\n{title}\n{result_table(results)}")
    if not tte.distributed.is_main():
        return 0
    if args.plot:
        plot(args.plot, title, trainer.history)
        print(f"curves: {args.plot}")
    if args.json:
        write_results(args.json, args, {"results": results, "history": trainer.history})
    return 0


if __name__ == "__main__":
    run_program(main)

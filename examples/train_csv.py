#!/usr/bin/env python3
"""Train a click model on a CSV or TSV file of your own: say what its columns are, and see the held-out AUC.

  python examples/train_csv.py --data clicks.tsv --ids user ad city hour --bags tags --numbers age

Ids may be numbers or strings, bags hold any number of them with spaces between, numbers may be missing.
The last part of the file is held out. Each epoch ends with a checkpoint; started again, the run goes on
behind the last one. Without --data it makes up a file. All is in this one file, to be copied and changed;
docs/own_data.md tells why it does what it does.
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import torch_tpu_embedding as tte

Ids = dict[str, tte.Ragged]

# An id that the training part has less often shares row 0 with those that it does not have.
RARE = 5


class Column:
    """Ids of a column: 1, 2, … for what the training part has often enough, 0 for everything else."""

    def __init__(self, texts: Sequence[str], train: int) -> None:
        self.bags = [text.split() for text in texts]
        counts = Counter(each for bag in self.bags[:train] for each in bag)
        known = sorted(each for each, count in counts.items() if count >= RARE)
        number = {each: n for n, each in enumerate(known, 1)}
        self.rows = len(known) + 1
        self.ids = [[number.get(each, 0) for each in bag] for bag in self.bags]

    def batch(self, samples: np.ndarray) -> tte.Ragged:
        return tte.Ragged.from_lists([self.ids[n] for n in samples])


def read_rows(path: Path, wanted: set[str]) -> tuple[list[dict[str, str]], list[int]]:
    """The samples, each with all wanted columns, and the line at which each ends."""
    rows, lines = [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter="\t" if "\t" in first else ",")
            header = reader.fieldnames or []
            for row in reader:
                rows.append(row)
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}; save it as UTF-8") from None
    if missing := wanted - {*header}:
        raise ValueError(f"{path} has no columns {sorted(missing)}; it has {[*header]}")
    for row, line in zip(rows, lines, strict=True):
        if short := sorted(name for name in wanted if row[name] is None):
            raise ValueError(f"{path}: line {line} ends before its columns {short}")
        if None in row:
            raise ValueError(f"{path}: line {line} has more columns than the header")
    return rows, lines


def number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{where}: {text!r} is no number")
    return value


def read(
    path: Path,
    label: str,
    ids: Sequence[str],
    bags: Sequence[str],
    numbers: Sequence[str],
    held_out: float,
) -> tuple[dict[str, Column], np.ndarray, int]:
    """Columns of ids; an array of the label, numbers, and whether each is there; samples to train on."""
    rows, lines = read_rows(path, {label, *ids, *bags, *numbers})
    train = len(rows) - int(held_out * len(rows))
    columns = {name: Column([row[name] for row in rows], train) for name in [*ids, *bags]}
    for name in ids:
        if wrong := [n for n, bag in enumerate(columns[name].bags) if len(bag) != 1]:
            raise ValueError(
                f"{path}: line {lines[wrong[0]]}: column {name!r} has not one id; is it one of --bags?"
            )

    def column(name: str, missing: str) -> np.ndarray:
        return np.array(
            [
                number(row[name].strip() or missing, f"{path}: line {line}: column {name!r}")
                for row, line in zip(rows, lines, strict=True)
            ]
        )

    values = [column(label, "")]
    if (wrong := np.flatnonzero((values[0] != 0) & (values[0] != 1))).size:
        raise ValueError(f"{path}: line {lines[wrong[0]]}: the label {label!r} is neither 0 nor 1")
    for name in numbers:
        there = np.array([row[name].strip() != "" for row in rows], dtype=bool)
        value = column(name, "0")
        known = value[:train][there[:train]]
        mean, scale = (known.mean(), known.std() + 1e-9) if known.size else (0, 1)
        values += [np.where(there, (value - mean) / scale, 0), there]
    return columns, np.stack(values, axis=1).astype(np.float32), train


def make_up(path: Path) -> None:
    """A file of clicks that some users and ads have more of than others."""
    draw = np.random.default_rng(0)
    users, ads = draw.normal(size=2_000), draw.normal(size=500)
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["user", "ad", "city", "tags", "age", "click"])
        for _ in range(60_000):
            user, ad = int(draw.integers(2_000)), int(500 * draw.random() ** 2)
            tags = " ".join(f"t{tag}" for tag in draw.integers(300, size=draw.integers(5)))
            age = "" if user % 9 == 0 else 18 + user % 50
            click = int(users[user] + ads[ad] + draw.normal() > 0)
            out.writerow([f"u{user}", ad, ["Lyon", "Bern", "Oslo"][user % 3], tags, age, click])


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """How likely a click has a higher score than a sample without, nan if there is but one kind; the same
    score counts half."""
    _, place, size = np.unique(scores, return_inverse=True, return_counts=True)
    ranks, clicked = (size.cumsum() - (size - 1) / 2)[place], labels > 0.5
    clicks, others = clicked.sum(), (~clicked).sum()
    if not clicks or not others:
        return float("nan")  # there is nothing to compare
    return float((ranks[clicked].sum() - clicks * (clicks + 1) / 2) / (clicks * others))


class Epoch:
    """Batches of the training part; their order is new in each epoch, and the same after a restart."""

    number = 0

    def __init__(
        self, batch: Callable[[np.ndarray], tuple[Ids, Tensor]], train: int, size: int
    ) -> None:
        self.batch, self.train, self.size = batch, train, size

    def __iter__(self) -> Iterator[tuple[Ids, Tensor]]:
        order = np.random.default_rng([0, self.number]).permutation(self.train)
        for at in range(0, self.train - self.size + 1, self.size):
            yield self.batch(order[at : at + self.size])

    def __len__(self) -> int:
        return self.train // self.size


class ClickModel:
    """Tables for the columns of ids, and a dense head over their rows and the numbers."""

    def __init__(self, columns: dict[str, Column], numbers: int, batch_size: int, dim: int) -> None:
        torch.manual_seed(0)
        features = {
            name: tte.FeatureConfig(tte.TableConfig(column.rows, dim, name=name, combiner="mean"))
            for name, column in columns.items()
        }
        # A row's gradient of a mean loss is small: TF's start of Adagrad's sums, 0.1, would drown it.
        optimizer = tte.Adagrad(0.1, initial_accumulator_value=1e-7)
        self.embedding = tte.TPUEmbedding(features, batch_size, optimizer, seed=0)
        layers = [
            torch.nn.Linear(dim * len(features) + numbers, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 1),
        ]
        self.head = torch.nn.Sequential(*layers).to(self.embedding.device)
        self.optimizers = [
            tte.EmbeddingOptimizer(self.embedding),
            torch.optim.Adam(self.head.parameters(), 1e-3),
        ]
        self.stateful = [self.head, *self.optimizers]  # what a checkpoint keeps beside the tables

    def scores(self, rows: dict[str, Tensor], values: Tensor) -> Tensor:
        return self.head(torch.cat([*rows.values(), values[:, 1:]], dim=1)).squeeze(1)

    def step(
        self, values: Tensor
    ) -> Tensor:  # a function, so that its tensors are gone before sync
        logits = self.scores(self.embedding.dequeue(), values)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, values[:, 0])
        loss.backward()
        for each in self.optimizers:
            each.step()
            each.zero_grad()
        return loss.detach()

    def evaluate(self, batches: Iterable[tuple[Ids, Tensor]]) -> float:
        self.embedding.eval()  # lookups await no gradients now
        found, labels = [], []
        with torch.no_grad():
            for ids, values in batches:
                there = self.embedding.to_device(values)
                found.append(self.scores(self.embedding(ids), there).cpu())
                labels.append(values[:, 0])
        self.embedding.train()
        return auc(torch.cat(labels).numpy(), torch.cat(found).numpy())


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data", type=Path, metavar="FILE", help="with a header; tabs or commas (default: made up)"
    )
    add("--label", default="click", metavar="COLUMN", help="0 or 1 (default: click)")
    add("--ids", nargs="*", default=["user", "ad", "city"], metavar="COLUMN", help="one id each")
    add("--bags", nargs="*", default=["tags"], metavar="COLUMN", help="ids with spaces between")
    add("--numbers", nargs="*", default=["age"], metavar="COLUMN", help="empty where unknown")
    add("--run", default="csv_run", metavar="DIRECTORY", help="checkpoints (default: csv_run)")
    add("--epochs", type=int, default=2, help="in all, those of a run before too (default: 2)")
    add("--batch-size", type=int, default=1024, help="default: 1024")
    add("--dim", type=int, default=16, help="width of the tables' rows (default: 16)")
    add("--held-out", type=float, default=0.2, metavar="SHARE", help="of the file (default: 0.2)")
    return parser.parse_args(argv)


def prepared(args: argparse.Namespace) -> tuple[dict[str, Column], np.ndarray, int]:
    """Read the file, which is made up if there is none."""
    if not args.ids and not args.bags:
        raise ValueError("--ids and --bags: name at least one column of ids")
    if not 0 < args.held_out < 1:
        raise ValueError(f"--held-out: give a share between 0 and 1, not {args.held_out}")
    if args.data is None:
        args.data = Path("made_up_clicks.tsv")
        make_up(args.data)
    columns, values, train = read(
        args.data, args.label, args.ids, args.bags, args.numbers, args.held_out
    )
    print(f"{args.data}: {train:,} samples to train, {len(values) - train:,} held out")
    if train < args.batch_size or train == len(values):
        raise ValueError(
            f"{args.data}: give a --batch-size of at most the samples to train, and a --held-out that "
            "leaves some to each part"
        )
    return columns, values, train


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    try:
        columns, values, train = prepared(args)
    except (OSError, ValueError) as error:
        print(f"train_csv.py: error: {error}", file=sys.stderr)
        return 2

    def batch(samples: np.ndarray) -> tuple[Ids, Tensor]:  # ids stay on the host
        ids = {name: column.batch(samples) for name, column in columns.items()}
        return ids, torch.from_numpy(values[samples])

    held_out = np.arange(train, len(values))
    test = [
        batch(part)
        for part in np.split(held_out, range(args.batch_size, len(held_out), args.batch_size))
    ]
    model = ClickModel(columns, values.shape[1] - 1, args.batch_size, args.dim)
    embedding = model.embedding
    print(embedding.describe())
    epoch = Epoch(batch, train, args.batch_size)
    loader = tte.EmbeddingLoader(
        epoch, embedding, features=lambda b: b[0], prepare=lambda b: embedding.to_device(b[1])
    )
    curve = []
    if tte.checkpoint.complete_steps(args.run):  # resume, if there is something
        curve, states = tte.checkpoint.load(embedding, args.run).extra
        for each, state in zip(model.stateful, states, strict=True):
            each.load_state_dict(state)
        print(f"{args.run}: goes on behind epoch {len(curve) - 1}, AUC {curve[-1]:.4f}")
    for epoch.number in range(len(curve), args.epochs):
        for there in tqdm(loader, f"epoch {epoch.number}", total=len(epoch)):
            loss = model.step(there)
            tte.runtime.sync()
        curve.append(model.evaluate(test))
        states = [each.state_dict() for each in model.stateful]
        tte.checkpoint.save(embedding, args.run, epoch.number, (curve, states))
        print(f"epoch {epoch.number}: loss {loss.item():.4f}, held-out AUC {curve[-1]:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

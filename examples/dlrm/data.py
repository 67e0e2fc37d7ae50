"""Click logs for the DLRM example: a synthetic one with a planted signal, or a Criteo file.

Both come as a `ClickLog`: numpy columns from which `ClickLog.batch` cuts the host tensors of one
step. The last part of a log, in its own order, is held out for evaluation.

Shape letters: B batch, N ids, R samples (rows of the log), V vocabulary.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from common.background import Batch
from tqdm import tqdm

from torch_tpu_embedding import Ragged

DENSE = tuple(f"I{k}" for k in range(1, 14))
CATEGORICAL = tuple(f"C{k}" for k in range(1, 27))
FIELDS = ("label", *DENSE, *CATEGORICAL)

# The vocabulary sizes of Criteo's Kaggle log, cut at 100,000.
VOCABULARIES = (
    *(1460, 583, 100_000, 100_000, 305, 24, 12_517, 633, 3, 93_145, 5683, 100_000, 3194),
    *(27, 14_992, 100_000, 10, 5652, 2173, 4, 100_000, 18, 15, 100_000, 105, 100_000),
)


@dataclass(frozen=True)
class Column:
    """A categorical column: the name, size and combiner of its table, and the form of its ids."""

    name: str
    vocabulary: int
    combiner: str = "mean"  # matters where a sample has several ids
    multi_hot: bool = False
    weighted: bool = False


# Columns of the synthetic log with several ids a sample: one for every combiner, one weighted.
MULTI_HOT = {"C7": "mean", "C11": "sum", "C15": "sqrtn", "C18": "mean"}
WEIGHTED = "C18"

# Columns whose ids decide together: neither id alone tells anything about this part of the click.
INTERACTING = (("C1", "C25"), ("C2", "C6"), ("C5", "C14"), ("C8", "C23"), ("C17", "C22"))


@dataclass(frozen=True)
class Ids:
    """The ids of one column: one a sample, or `values[row_splits[r]:row_splits[r + 1]]` each."""

    values: np.ndarray  # [N] int32
    row_splits: np.ndarray | None = None  # [R + 1] int64
    weights: np.ndarray | None = None  # [N] float32

    def take(
        self, rows: np.ndarray, real: np.ndarray
    ) -> tuple[torch.Tensor | Ragged, Ragged | None]:
        """The ids and weights of some samples as `TPUEmbedding.enqueue` takes them.

        Samples that are not `real` fill up a short batch. In a ragged column a filler gets no ids: fillers
        with many ids could make the batch outgrow its padded size, which would compile one more program.
        """
        if self.row_splits is None:
            return torch.from_numpy(self.values[rows]), None
        starts = self.row_splits[rows]
        lengths = np.where(real, self.row_splits[rows + 1] - starts, 0)
        splits = np.concatenate([[0], np.cumsum(lengths)])
        picks = np.repeat(starts - splits[:-1], lengths) + np.arange(splits[-1])
        row_splits = torch.from_numpy(splits)
        ids = Ragged(torch.from_numpy(self.values[picks]), row_splits)
        if self.weights is None:
            return ids, None
        return ids, Ragged(torch.from_numpy(self.weights[picks]), row_splits)


@dataclass(frozen=True)
class ClickLog:
    """A click log in memory; rows from `train_rows` on are held out."""

    columns: tuple[Column, ...]
    labels: np.ndarray  # [R] float32, 0 or 1
    dense: np.ndarray  # [R, 13] float32, log(1 + x)
    ids: tuple[Ids, ...]  # one a column
    train_rows: int
    oracle: np.ndarray | None = None  # [R] the planted click probabilities, if synthetic

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: np.ndarray, loss_weights: np.ndarray) -> Batch:
        """Cut out some samples, in the given order; `loss_weights` has a number for each, 0 for fillers.

        The `numbers` of the batch `[B, 2 + 13]` are label, weight in the loss, and the dense numbers.
        """
        features: dict[str, torch.Tensor | Ragged] = {}
        weights: dict[str, Ragged | None] = {}
        for column, ids in zip(self.columns, self.ids, strict=True):
            features[column.name], weights[column.name] = ids.take(rows, loss_weights > 0)
        numbers = np.column_stack([self.labels[rows], loss_weights, self.dense[rows]])
        return Batch(torch.from_numpy(numbers), features, weights)


def log_transform(dense: np.ndarray) -> np.ndarray:
    """`log(1 + max(x, 0))`: Criteo's integers are heavy-tailed counts (and a few are negative)."""
    return np.log1p(np.maximum(dense, 0), dtype=np.float32)


def synthetic(
    samples: int, *, scale: float = 1.0, held_out: float = 0.1, seed: int = 0
) -> ClickLog:
    """A click log in Criteo's shape whose click probabilities are known.

    The logit is the sum of three planted parts: one of the dense numbers, one of every id by itself
    (a hidden effect per id) and one of pairs of ids (products of hidden vectors). Ids follow a
    Zipf-like law and are independent of the dense numbers, so a model without embeddings can find
    the first part only.

    Args:
        samples: how many samples, training and held out together.
        scale: multiplies the vocabulary sizes (3 to 100,000; none gets below 3).
        held_out: the part of the log, at its end, that is kept from training.
        seed: decides everything random here.
    """
    rng = np.random.default_rng(seed)
    counts = np.floor(np.exp(rng.normal(1.5, 1.2, (samples, len(DENSE)))))
    dense = log_transform(np.where(rng.random(counts.shape) < 0.2, 0, counts))
    bends = np.abs(dense[:, 0] - 2) + dense[:, 1] * dense[:, 2] / 4  # a linear model misses these
    logit = _spread(dense @ rng.normal(size=len(DENSE)) / 2 + bends, 0.7)

    columns, all_ids, hidden = [], [], {}
    for name, vocabulary in zip(CATEGORICAL, VOCABULARIES, strict=True):
        size = max(3, round(vocabulary * scale))
        combiner, several = MULTI_HOT.get(name, "mean"), name in MULTI_HOT
        column = Column(name, size, combiner, several, weighted=name == WEIGHTED)
        ids = _draw_ids(column, samples, rng)
        vectors = rng.normal(size=(size, 5)).astype(np.float32)
        activation = _combine(vectors, ids, column.combiner, samples)
        logit += _spread(activation[:, 0], 0.3)
        if any(name in pair for pair in INTERACTING):
            hidden[name] = activation[:, 1:]
        columns.append(column)
        all_ids.append(ids)
    for one, other in INTERACTING:
        logit += _spread(np.einsum("rk,rk->r", hidden[one], hidden[other]), 0.4)

    probability = 1 / (1 + np.exp(1.5 - logit))
    labels = (rng.random(samples) < probability).astype(np.float32)
    train_rows = samples - round(samples * held_out)
    return ClickLog(tuple(columns), labels, dense, tuple(all_ids), train_rows, probability)


def _spread(part: np.ndarray, deviation: float) -> np.ndarray:
    """A part of the logit with mean 0 and the given standard deviation."""
    return (part - part.mean()) * (deviation / max(float(part.std()), 1e-6))


def _draw_ids(column: Column, samples: int, rng: np.random.Generator) -> Ids:
    """Ids with probability proportional to 1 / (3 + rank); which id has which rank is random."""
    share = np.cumsum(1 / (3 + np.arange(column.vocabulary)))
    of_rank = rng.permutation(column.vocabulary).astype(np.int32)
    lengths = rng.poisson(3, samples).clip(max=8) if column.multi_hot else None
    drawn = samples if lengths is None else int(lengths.sum())
    values = of_rank[np.searchsorted(share, rng.random(drawn) * share[-1], side="right")]
    if lengths is None:
        return Ids(values)
    weights = rng.uniform(0.2, 2, drawn).astype(np.float32) if column.weighted else None
    return Ids(values, np.concatenate([[0], np.cumsum(lengths)]), weights)


def _combine(vectors: np.ndarray, ids: Ids, combiner: str, samples: int) -> np.ndarray:
    """The activations `[R, 5]` of an embedding lookup in the hidden vectors."""
    rows = vectors[ids.values]
    if ids.row_splits is None:
        return rows
    owner = np.repeat(np.arange(samples), np.diff(ids.row_splits))
    weights = np.ones(len(owner)) if ids.weights is None else ids.weights
    sums = [np.bincount(owner, rows[:, k] * weights, samples) for k in range(rows.shape[1])]
    total = np.bincount(owner, weights, samples)
    squares = np.bincount(owner, np.square(weights), samples)
    divisor = {"sum": np.ones(samples), "mean": total, "sqrtn": np.sqrt(squares)}[combiner]
    return np.stack(sums, axis=1) / np.maximum(divisor, 1e-6)[:, None]  # an empty bag gives 0


def read_criteo(
    path: Path,
    *,
    categories: str = "hash",
    vocabulary: int = 100_000,
    limit: int | None = None,
    held_out: float = 0.1,
) -> ClickLog:
    """Read a Criteo file, plain or .gz, streaming: only the numpy columns stay in memory.

    Args:
        path: lines of 40 fields (label, I1..I13, C1..C26), tab- or comma-separated; a header line
            of these names is skipped. An empty I field counts as 0, an empty C field has id 0.
        categories: "hash" for `hash_ids`; "index" numbers each column's values from 1 as they
            appear; a value that the training part lacks, or `vocabulary` cannot hold, has id 0.
        vocabulary: ids per column, at most, with id 0.
        limit: read only this many samples, the first ones.
        held_out: as in `synthetic`.

    Raises:
        ValueError: names the file, the line, the column and the value that cannot be read.
    """
    labels, dense, ids = array("f"), array("f"), array("i")
    indexes: list[dict[int, int]] = [{} for _ in CATEGORICAL]
    samples = _parse(path, limit)
    while chunk := list(itertools.islice(samples, 16_384)):
        labels.extend(float(fields[0]) for fields in chunk)
        dense.extend(float(x or 0) for fields in chunk for x in fields[1:14])
        raw = np.array([[int(x, 16) if x else -1 for x in fields[14:]] for fields in chunk])
        if categories == "hash":
            encoded = hash_ids(raw, vocabulary)
        else:
            pairs = zip(raw.T, indexes, strict=True)
            encoded = np.stack([_index_ids(values, index) for values, index in pairs], axis=1)
        ids.frombytes(encoded.astype(np.int32).tobytes())
    rows = len(labels)
    if not rows:
        raise ValueError(f"{path} holds no samples; pass a file of Criteo's train.txt format")
    table = np.frombuffer(ids, np.int32).reshape(rows, len(CATEGORICAL))
    train_rows = rows - round(rows * held_out)
    sizes = [vocabulary] * len(CATEGORICAL)
    if categories == "index":
        # Numbers follow the file: values of the held-out part alone have numbers above the training part's.
        sizes = [min(vocabulary, max(2, int(top) + 1)) for top in table[:train_rows].max(axis=0)]
        table = np.where(table < sizes, table, 0)
    return ClickLog(
        tuple(map(Column, CATEGORICAL, sizes)),
        np.frombuffer(labels, np.float32),
        log_transform(np.frombuffer(dense, np.float32).reshape(rows, len(DENSE))),
        tuple(Ids(table[:, c]) for c in range(len(CATEGORICAL))),
        train_rows,
    )


def hash_ids(values: np.ndarray, vocabulary: int) -> np.ndarray:
    """Ids of raw 32-bit category values `[R, columns]`, the same in every run and on every machine.

    The value plus (1 + column) * 0x9E3779B97F4A7C15 goes through the finaliser of splitmix64 to
    give h (all modulo 2**64), and the id is 1 + h % (vocabulary - 1). A missing value, -1, has id
    0, which no other value gets.
    """
    columns = np.arange(1, values.shape[1] + 1, dtype=np.uint64)
    h = values.astype(np.uint64) + columns * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    ids = 1 + (h ^ (h >> np.uint64(31))) % np.uint64(vocabulary - 1)
    return np.where(values < 0, 0, ids.astype(np.int64))


def _index_ids(values: np.ndarray, index: dict[int, int]) -> np.ndarray:
    """Number values in the order of their first appearance, continuing `index`; -1 is always 0."""
    index.setdefault(-1, 0)
    distinct, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    for k in np.argsort(first):
        index.setdefault(int(distinct[k]), len(index))
    return np.array([index[value] for value in distinct.tolist()])[inverse]


NUMBER, HEX = r"(?:-?[0-9]{1,15}(?:\.[0-9]*)?)?", r"[0-9a-fA-F]{0,8}"
PATTERNS = ("[01]", *[NUMBER] * len(DENSE), *[HEX] * len(CATEGORICAL))
EXPECTED = (
    "0 or 1 (1: clicked)",
    *["a number or empty"] * len(DENSE),
    *["up to 8 hexadecimal digits or empty"] * len(CATEGORICAL),
)


def _parse(path: Path, limit: int | None) -> Iterator[tuple[str, ...]]:
    """The 40 fields of each line, checked."""
    bar = tqdm(desc=f"reading {path.name}", unit=" lines", unit_scale=True, disable=None)
    try:
        with bar, _open_text(path) as file:
            lines = (line.rstrip("\r\n") for line in file)
            first = next(lines, None)
            if first is None:
                return
            separator = "\t" if "\t" in first else ","
            pattern = re.compile(separator.join(f"({field})" for field in PATTERNS))
            header = tuple(first.split(separator)) == FIELDS
            samples = lines if header else itertools.chain([first], lines)
            for number, line in enumerate(itertools.islice(samples, limit), 1 + header):
                if not line and next(lines, None) is None:
                    break  # an empty last line, as editors leave it
                if not (match := pattern.fullmatch(line)):
                    raise ValueError(_why_malformed(path, number, line.split(separator)))
                bar.update()
                yield match.groups()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again") from error


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _why_malformed(path: Path, number: int, fields: list[str]) -> str:
    if len(fields) != len(FIELDS):
        return (
            f"{path}, line {number}: {len(fields)} fields where label, I1..I13, C1..C26 are "
            f"{len(FIELDS)}; pass a file with labels (train.txt, not test.txt), tab- or "
            "comma-separated, or mend the line"
        )
    for name, value, pattern, expected in zip(FIELDS, fields, PATTERNS, EXPECTED, strict=True):
        if not re.fullmatch(pattern, value):
            remedy = "mend or delete the line"
            if number == 1:
                remedy += ", or, if it is a header, name the columns label,I1..I13,C1..C26"
            return f"{path}, line {number}, column {name}: {value!r} is not {expected}; {remedy}"
    raise AssertionError("the line is well-formed")

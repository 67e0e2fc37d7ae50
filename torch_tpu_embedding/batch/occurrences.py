"""The occurrences of ids in update order, for optimizers that step once for each of them.

The order is that of the features in feature_config, then of the samples, then of the ids in a sample. The
k-th occurrences of all ids can be applied together, so a step is a row of *chunks*: a chunk takes the next
few occurrences of each id that still has some. How many chunks there are depends on the data, so each is a
small program of its own, of one of a few sizes, and the step is no single program.

Letters: N ids, U unique rows, D dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..tables.layout import StackLayout

_ROUNDS = (1, 1, 2, 4, 8)  # occurrences of one id taken by the first chunks; the last size repeats
_SMALLEST = 8
_GROWTH = 4
_DEVIATIONS = 3.0  # room for a count that scatters like a Poisson one


@dataclass(frozen=True)
class RoundBatch:
    """Up to `rounds` occurrences of each of `rows` records."""

    rounds: int
    rows: int
    """Padded; one of few sizes."""
    ints: Tensor
    """int32, for each device of this process one after another: the records `[rows]`, their tables
    `[rows]`, and `[rounds, rows]` places in the batch's gradients, -1 where a record has no further
    occurrence."""


def tables_of(stack: StackLayout, records: Tensor) -> Tensor:
    """Which of the stack's tables each of its int32 records is of."""
    starts = torch.tensor(stack.first_records, dtype=torch.int32, device="cpu")
    return torch.searchsorted(starts, records, right=True) - 1


@dataclass(frozen=True)
class Occurrences:
    """The occurrences on one device, grouped by record, those with most first."""

    records: Tensor
    """`[U]` int32."""
    counts: Tensor
    """`[U]`, falling."""
    starts: Tensor
    """`[U]`: where the record's occurrences begin in `places`."""
    places: Tensor
    """`[N]`: places in the batch's gradients, record after record, each in update order."""

    def rows_of_round_batches(self) -> list[int]:
        """How many records each chunk must take, before padding."""
        rows, done = [], 0
        while len(self.counts) and done < int(self.counts[0]):
            rows.append(int((self.counts > done).sum()))
            done += _rounds(len(rows) - 1)
        return rows


def group_occurrences(records: Tensor, of_place: Tensor, batch_order: Tensor) -> Occurrences:
    """Group the places of a batch by record.

    Args:
        records: the unique records `[U]`, padding excluded.
        of_place: for each place of the batch its position in `records`; beyond U where it is padding.
        batch_order: the places in the order in which their updates are due.
    """
    order = batch_order[of_place[batch_order] < len(records)]
    grouped = order[torch.argsort(of_place[order], stable=True)]
    counts = torch.bincount(of_place[order], minlength=len(records))
    starts = counts.cumsum(0) - counts
    by_count = torch.argsort(counts, descending=True, stable=True)
    return Occurrences(records[by_count], counts[by_count], starts[by_count], grouped)


def make_round_batches(
    stack: StackLayout,
    per_device: list[Occurrences],
    rows_of_round_batches: list[int],
    sizes: list[int],
) -> tuple[RoundBatch, ...]:
    """Cut the occurrences of one batch into chunks, on the host.

    Args:
        per_device: of each device of this process.
        rows_of_round_batches: the most that any device of any process needs, so that all run the same programs.
        sizes: the rows of the first, second, … chunk so far; they only grow, lest chance alone make new
            programs.
    """
    chunks: list[RoundBatch] = []
    done = 0
    for number, needed in enumerate(rows_of_round_batches):
        rounds = _rounds(number)
        if number == len(sizes):
            sizes.append(0)
        if needed > sizes[number]:
            rows = _SMALLEST
            while rows < needed + _DEVIATIONS * math.sqrt(needed):
                rows *= _GROWTH
            sizes[number] = rows
        parts = [_round_batch_of(stack, each, done, rounds, sizes[number]) for each in per_device]
        chunks.append(RoundBatch(rounds, sizes[number], torch.cat(parts)))
        done += rounds
    return tuple(chunks)


def _round_batch_of(
    stack: StackLayout, of: Occurrences, done: int, rounds: int, rows: int
) -> Tensor:
    active = int((of.counts > done).sum())
    ints = torch.full((2 + rounds, rows), -1, dtype=torch.int32, device="cpu")
    ints[0] = stack.padding_record
    ints[0, :active] = of.records[:active]
    ints[1] = 0
    ints[1, :active] = tables_of(stack, of.records[:active])
    for turn in range(rounds):
        there = int((of.counts > done + turn).sum())
        ints[2 + turn, :there] = of.places[of.starts[:there] + done + turn]
    return ints.view(-1)


def _rounds(number: int) -> int:
    return _ROUNDS[min(number, len(_ROUNDS) - 1)]

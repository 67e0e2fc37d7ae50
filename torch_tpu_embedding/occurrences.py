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

from .layout import StackLayout

_ROUNDS = (1, 1, 2, 4, 8)  # occurrences of one id taken by the first chunks; the last size repeats
_SMALLEST = 8
_GROWTH = 4
_DEVIATIONS = 3.0  # room for a count that scatters like a Poisson one


@dataclass(frozen=True)
class Chunk:
    """Up to `rounds` occurrences of each of `rows` records."""

    rounds: int
    rows: int
    """Padded; one of few sizes."""
    ints: Tensor
    """int32: the records `[rows]`, their tables `[rows]`, and `[rounds, rows]` places in the batch's
    gradients, -1 where a record has no further occurrence."""


def tables_of(stack: StackLayout, records: Tensor) -> Tensor:
    """Which of the stack's tables each of its int32 records is of."""
    starts = torch.tensor(stack.first_records, dtype=torch.int32)
    return torch.searchsorted(starts, records, right=True) - 1


def make_chunks(
    stack: StackLayout, records: Tensor, of_place: Tensor, batch_order: Tensor, sizes: list[int]
) -> tuple[Chunk, ...]:
    """Cut the occurrences of one batch into chunks, on the host.

    Args:
        records: the unique records `[U]`, padding excluded.
        of_place: for each place of the batch its position in `records`; beyond U where it is padding.
        batch_order: the places in the order in which their updates are due.
        sizes: the rows of the first, second, … chunk so far; they only grow, lest chance alone make new
            programs.
    """
    order = batch_order[of_place[batch_order] < len(records)]
    grouped = order[torch.argsort(of_place[order], stable=True)]
    counts = torch.bincount(of_place[order], minlength=len(records))
    starts = counts.cumsum(0) - counts
    by_count = torch.argsort(counts, descending=True, stable=True)
    counts, starts, records = counts[by_count], starts[by_count], records[by_count]
    tables = tables_of(stack, records)
    chunks: list[Chunk] = []
    done = 0
    while len(counts) and done < int(counts[0]):
        rounds = _ROUNDS[min(len(chunks), len(_ROUNDS) - 1)]
        active = int((counts > done).sum())
        number = len(chunks)
        if number == len(sizes):
            sizes.append(0)
        if active > sizes[number]:
            rows = _SMALLEST
            while rows < active + _DEVIATIONS * math.sqrt(active):
                rows *= _GROWTH
            sizes[number] = rows
        rows = sizes[number]
        ints = torch.full((2 + rounds, rows), -1, dtype=torch.int32)
        ints[0] = stack.padding_record
        ints[0, :active] = records[:active]
        ints[1] = 0
        ints[1, :active] = tables[:active]
        for turn in range(rounds):
            there = int((counts > done + turn).sum())
            ints[2 + turn, :there] = grouped[starts[:there] + done + turn]
        chunks.append(Chunk(rounds, rows, ints.view(-1)))
        done += rounds
    return tuple(chunks)

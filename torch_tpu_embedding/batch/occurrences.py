"""The occurrences of ids in update order, for optimizers that step once for each of them.

The order is that of the features in feature_config, then of the samples, then of the ids in a sample. The
k-th occurrences of all ids, *round* k, can be applied together. So a step is a sequence of *round batches*:
a round batch takes the next few rounds, of each id that still has occurrences. The number of round batches
depends on the data, so each is a small program of its own, of one of a few sizes, and the step is no single
program.

Letters: N lookups, U unique rows, D dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed.group import HostGroup
from ..inputs.bags import Bags
from ..tables.layout import StackLayout
from .agreement import most
from .buffers import incoming_positions
from .padding import StackPadding
from .program_shape import StackShape
from .requests import IncomingRequest, UniqueRecords, batch_order

_ROUNDS = (1, 1, 2, 4, 8)  # rounds of the first round batches; the last number repeats
_SMALLEST = 8
_GROWTH = 4
_DEVIATIONS = 3.0  # room for a count that scatters like a Poisson one


@dataclass(frozen=True)
class RoundBatch:
    """Up to `rounds` occurrences of each of `rows` records."""

    rounds: int
    rows: int
    """The padded number of records, one of few sizes."""
    ints: Tensor
    """int32, for each device of this process one after another: the records `[rows]`, their tables
    `[rows]`, and `[rounds, rows]` the lookup in the batch whose gradient is due, -1 where a record has no
    further occurrence."""


def tables_of(stack: StackLayout, records: Tensor) -> Tensor:
    """The table of each int32 record, counted in the stack."""
    starts = torch.tensor(stack.first_records, dtype=torch.int32, device="cpu")
    return torch.searchsorted(starts, records, right=True) - 1


@dataclass(frozen=True)
class Occurrences:
    """The occurrences on one device, grouped by record, the records with most occurrences first."""

    records: Tensor
    """`[U]` int32."""
    counts: Tensor
    """`[U]`: occurrences of each record, falling."""
    starts: Tensor
    """`[U]`: where each record's occurrences begin in `lookups`."""
    lookups: Tensor
    """`[N]`: the numbers of the batch's lookups, record after record, in update order for each record."""

    def rows_of_round_batches(self) -> list[int]:
        """The number of records that each round batch must take, before padding."""
        rows, done = [], 0
        while len(self.counts) and done < int(self.counts[0]):
            rows.append(int((self.counts > done).sum()))
            done += _rounds(len(rows) - 1)
        return rows


def group_occurrences(records: Tensor, of_lookup: Tensor, batch_order: Tensor) -> Occurrences:
    """Group the lookups of a batch by record.

    Args:
        records: the unique records `[U]`, padding excluded.
        of_lookup: for each lookup of the batch its position in `records`; U or more where it is padding.
        batch_order: the numbers of the lookups in the order in which their updates are due.
    """
    order = batch_order[of_lookup[batch_order] < len(records)]
    grouped = order[torch.argsort(of_lookup[order], stable=True)]
    counts = torch.bincount(of_lookup[order], minlength=len(records))
    starts = counts.cumsum(0) - counts
    by_count = torch.argsort(counts, descending=True, stable=True)
    return Occurrences(records[by_count], counts[by_count], starts[by_count], grouped)


def round_batches_of(
    shapes: tuple[StackShape, ...],
    part: Sequence[Bags],
    incoming: list[list[IncomingRequest]],
    records: list[list[UniqueRecords]],
    padding: list[StackPadding],
    group: HostGroup,
) -> tuple[tuple[RoundBatch, ...], ...]:
    """The round batches of the stacks that step once for each occurrence, equally many on every device, and
    none of the other stacks; a collective call.

    Args:
        part: the bags of the first device of this process, in feature order.
        incoming, records: per stack, one for each device; nothing comes in on a single device.
        padding: per stack.
    """
    found: dict[int, list[Occurrences]] = {}
    for n, of_stack in enumerate(shapes):
        if not of_stack.order.stack.steps_per_occurrence:
            continue
        if incoming:
            pairs = zip(incoming[n], records[n], strict=True)
            found[n] = [_incoming_occurrences(of_stack, *pair) for pair in pairs]
        else:
            order = batch_order(of_stack.order, part)
            found[n] = [
                group_occurrences(own.records, own.of_incoming, order) for own in records[n]
            ]
    if not found:
        return ((),) * len(shapes)
    needed = {n: [each.rows_of_round_batches() for each in found[n]] for n in found}
    counts = most(group, [max(map(len, needed[n])) for n in found])
    rows = most(
        group,
        [
            max(each[k] if k < len(each) else 0 for each in needed[n])
            for n, count in zip(found, counts, strict=True)
            for k in range(count)
        ],
    )
    round_batches: list[tuple[RoundBatch, ...]] = [()] * len(shapes)
    for n, count in zip(found, counts, strict=True):
        stack, sizes = shapes[n].order.stack, padding[n].round_batches
        round_batches[n] = make_round_batches(stack, found[n], rows[:count], sizes)
        rows = rows[count:]
    return tuple(round_batches)


def _incoming_occurrences(
    shape: StackShape, incoming: IncomingRequest, unique: UniqueRecords
) -> Occurrences:
    """The occurrences that all devices sent to one device, in the order of features, then of samples."""
    assert incoming.features is not None
    of_position = incoming_positions(shape, incoming, unique)
    positions = (of_position < len(unique.records)).nonzero()[:, 0]
    return group_occurrences(
        unique.records, of_position, positions[torch.argsort(incoming.features, stable=True)]
    )


def make_round_batches(
    stack: StackLayout,
    per_device: list[Occurrences],
    rows_of_round_batches: list[int],
    sizes: list[int],
) -> tuple[RoundBatch, ...]:
    """Divide the occurrences of one batch into round batches, on the host.

    Args:
        per_device: one for each device of this process.
        rows_of_round_batches: the most records that any device of any process needs in each round batch, so
            that all run the same programs.
        sizes: the padded rows of the first, second, … round batch so far; changed. They only grow, so that
            chance alone makes no new programs.
    """
    found: list[RoundBatch] = []
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
        found.append(RoundBatch(rounds, sizes[number], torch.cat(parts)))
        done += rounds
    return tuple(found)


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
        ints[2 + turn, :there] = of.lookups[of.starts[:there] + done + turn]
    return ints.view(-1)


def _rounds(number: int) -> int:
    return _ROUNDS[min(number, len(_ROUNDS) - 1)]

"""Norms of gradients and rows, summed up on the device in a few steps and read later.

Two programs alternate, one with the sums and one without, each compiled once for each size of the batch.
The result waits on the device until its step has been started, so asking for it never ends a step.
Letters: U unique rows, T tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import runtime
from ..config.resolved import WEIGHT
from ..distributed.exchange import Exchange
from .records import field_of
from .stack_index import StackIndex

Norms = dict[int, tuple[float, float]]
"""Table → the norm of its gradient, and the root mean square of the norms of its rows in the batch."""


class NormSampler:
    """Chooses the updates to sample, and keeps the norms of the last of them.

    Args:
        every: one in `every` updates is sampled, the second update first.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._updates = 0
        self._pending: tuple[list[int], Tensor] | None = None
        self._known: Norms = {}

    @property
    def due(self) -> bool:
        """True if the update that begins next is to be sampled."""
        return self._updates % self._every == 1 % self._every

    @property
    def always(self) -> bool:
        """True if every update is sampled."""
        return self._every == 1

    def begin(self) -> bool:
        """Count an update that begins now; returns True if it is to be sampled."""
        due = self.due
        self._updates += 1
        if due:
            self.read()
        return due

    def keep(self, parts: Sequence[tuple[Sequence[int], Tensor]]) -> None:
        """Take the results of `sums_of_squares` for some stacks, each with the tables of its stack."""
        if parts:
            tables = [table for members, _ in parts for table in members]
            self._pending = tables, torch.cat([sums for _, sums in parts], dim=1)

    def read(self) -> Norms:
        """The norms of the last sampled update that is known; empty if there is none."""
        if self._pending is not None:
            tables, sums = self._pending
            if not runtime.is_accelerated(sums.device) or runtime.is_computed(sums):
                for table, (gradient, row, count) in zip(
                    tables, sums.cpu().T.tolist(), strict=True
                ):
                    self._known[table] = math.sqrt(gradient), math.sqrt(row / max(count, 1.0))
                self._pending = None
        return self._known


def sums_of_squares(
    exchange: Exchange, index: StackIndex, gradient: Tensor, records: Tensor
) -> Tensor:
    """The sums of squares of the gradient and of the rows of each table of a stack, and the number of rows.

    Args:
        gradient: of each unique record, `[U, D]`. records: their gathered weights array.

    Returns:
        `[3, T]` float32; under SPMD of all devices together, else of this one.
    """
    stack = index.shape.order.stack
    valid = index.valid[:, 0]
    weights = field_of(stack.arrays[0], records, WEIGHT)
    values = [gradient.square().sum(1), weights.square().sum(1)]
    rows = torch.stack([*(torch.where(valid, each, 0.0) for each in values), valid.float()], dim=1)
    if index.shape.has_several_tables:
        sums = torch.zeros(len(stack.table_indices), 3, device=rows.device, dtype=torch.float32)
        sums = sums.index_add(0, index.ints.table, rows)
    else:
        sums = rows.sum(0, keepdim=True)
    return exchange.leave(sums.T[None]).sum(0)

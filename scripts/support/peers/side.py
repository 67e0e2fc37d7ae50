"""A side of scripts/bench.py: what every library's step has to do, and the numbers that all of them share.

Letters: B batch, D dim, L sequence length.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from support.workloads import Workload
from torch import Tensor

RATE, START, EPSILON = 0.05, 0.1, 1e-10
BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-8
SLOT_FLOATS: dict[str, Callable[[int], int]] = {
    "SGD": lambda dim: 0,
    "Adagrad": lambda dim: dim,
    "RowWiseAdagrad": lambda dim: 1,
    "Adam": lambda dim: 2 * dim,
}
"""Floats that an optimizer keeps for a row beside its weights, from D."""
ALL_CORES = len(os.sched_getaffinity(0))

Lap = Callable[[str], None]
"""Called with the name of the phase of a step that has just ended."""


class Unavailable(Exception):  # noqa: N818 (not an error: a reason)
    """The reason why a side cannot be measured."""


def gradients_of(work: Workload) -> list[Tensor]:
    """The gradient of each feature's activations, `[B, D]` or `[B, L, D]`; the same for every side.

    All are positive: a sum that nearly cancels is rounded differently by each side, and Adam magnifies it.
    """
    generator = torch.Generator().manual_seed(1)
    found = []
    for each in work.inputs:
        length = (each.ids,) if each.sequence else ()
        shape = (work.batch_size, *length, work.dims[each.table])
        found.append(torch.rand(shape, generator=generator) + 0.5)
    return found


class Side:
    """One library with its own tables. The phases that `step` marks add up to the whole step."""

    threads = ALL_CORES
    """Threads of torch, and of libraries that use torch's threads."""
    waits = True
    """True if a step is finished when it returns; if not, `finish` waits for all steps of a turn."""
    slow = False
    """True if a step takes so long that few are measured."""
    differs = ""
    """The reason why its tables differ from ours; empty if they must be equal."""
    memory_factor = 1.0
    """Memory that it needs, as a multiple of weights and slots."""

    def __init__(self, work: Workload, optimizer: str) -> None:
        self.work, self.optimizer = work, optimizer

    def step(self, batch: list[object], lap: Lap) -> None:
        """A training step on host ids."""
        raise NotImplementedError

    def finish(self) -> None:
        """Return when all steps are finished."""

    def rows(self, table: int, count: int) -> Tensor:
        """The weights of the first rows of a table, a copy."""
        raise NotImplementedError

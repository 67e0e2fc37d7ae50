"""What each process says of its batch before it is planned, in one message, and what all make of it.

Letters: F features, S processes, L devices of a process, G devices of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed.agreement import check_starts
from ..distributed.calls import digest
from ..distributed.group import HostGroup, report_failure
from ..runtime import host


@dataclass(frozen=True)
class Report:
    """What one process says."""

    error: Exception | None
    """Why it has no batch."""
    kinds: str
    """What must be equal in all processes."""
    starts: dict[str, str]
    """Per table, what its start values look like."""
    times: int
    """How many units of samples it plans for."""
    missing: int
    """How many samples it lacks for them."""
    counts: Tensor
    """`[stacks, L, G]`: how many records each device asks of each."""
    ragged: list[int]
    """Per stack, the most ragged ids of a device."""
    seen: Tensor
    """`[F, 3]`: what it knows of the lengths of bags."""
    wishes: list[list[int]]
    """Per stack, the padded sizes that would do."""


@dataclass(frozen=True)
class Told:
    """What all processes have said."""

    counts: Tensor
    """`[S, stacks, L, G]`."""
    ragged: list[int]
    """Per stack, the most of all."""
    seen: Tensor
    """`[S, F, 3]`."""
    times: int
    """The most of all."""
    times_agree: bool
    """Whether all plan for as many units."""
    is_filled: bool
    """Whether one lacks samples."""
    sizes: list[list[int]]
    """Per stack, the greatest of the padded sizes that would do."""


def tell(group: HostGroup, report: Report) -> Told:
    """Exchange the reports on one batch; a collective call.

    Raises:
        Exception: that of the report, or PeerError if another process has one.
        ValueError: the start values or the kinds of batches differ.
    """
    if group.size == 1:
        if report.error is not None:
            raise report.error
        counts, seen = report.counts[None], report.seen[None]
        return Told(
            counts, report.ragged, seen, report.times, True, report.missing > 0, report.wishes
        )
    wishes = host.ints(report.wishes)
    known = digest(report.kinds), digest(repr(report.starts))
    head = host.ints([report.error is not None, *known, report.times, report.missing])
    pieces = [head, report.counts, host.ints(report.ragged), report.seen, wishes]
    told = group.gather(torch.cat([piece.reshape(-1) for piece in pieces]))
    if bool(told[:, 0].any()):
        report_failure(group, "enqueue", report.error)
    if bool((told[:, 2] != told[0, 2]).any()):
        check_starts(group.gather_objects(report.starts))
    times_agree = bool((told[:, 3] == told[0, 3]).all())
    if times_agree and bool((told[:, 1] != told[0, 1]).any()):
        _refuse(group.gather_objects(report.kinds))
    parts = torch.split(told, [piece.numel() for piece in pieces], 1)
    counts, ragged, seen, sizes = (
        part.reshape(-1, *piece.shape) for part, piece in zip(parts[1:], pieces[1:], strict=True)
    )
    return Told(
        counts,
        ragged.amax(0).tolist(),
        seen,
        int(told[:, 3].max()),
        times_agree,
        bool((told[:, 4] > 0).any()),
        sizes.amax(0).tolist(),
    )


def _refuse(kinds: list[str]) -> None:
    rank = next(rank for rank, other in enumerate(kinds) if other != kinds[0])
    raise ValueError(
        "enqueue: the processes gave different kinds of batches: [(feature, one id a place, shape), …] is "
        f"{kinds[0]} on process 0 and {kinds[rank]} on process {rank}; every process must enqueue the same "
        "kinds of features in the same order"
    )

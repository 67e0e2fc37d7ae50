"""Agreement on the sizes of one batch: one message from each process to all, and the sizes that follow from
them.

Letters: F features, S processes, P devices of a process, G devices of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed.agreement import check_starts
from ..distributed.calls import digest
from ..distributed.group import HostGroup, report_failure
from ..inputs.bags import Bags
from ..runtime import host
from ..runtime.phases import phase


@dataclass(frozen=True)
class Report:
    """The message of one process about its batch."""

    error: Exception | None
    """The reason why the process has no batch."""
    kinds: str
    """A text of the kinds of features, which must be equal in all processes."""
    starts: dict[str, str]
    """Table → a digest of its start values, which must be equal in all processes."""
    times: int
    """The size of the batch as a multiple of the samples that programs are made for."""
    missing: int
    """The number of samples that are missing to that size."""
    counts: Tensor
    """`[stacks, P, G]`: the number of records that each device asks each device for."""
    ragged: list[int]
    """The most ragged ids of a device of this process, per stack."""
    seen: Tensor
    """`[F, 3]`: the counts of `BagLengths.observe`."""
    wishes: list[list[int]]
    """The padded sizes that are enough for this process, per stack."""


@dataclass(frozen=True)
class Told:
    """The messages of all processes, combined."""

    counts: Tensor
    """`[S, stacks, P, G]`: the counts of each process."""
    ragged: list[int]
    """The most ragged ids of any device, per stack."""
    seen: Tensor
    """`[S, F, 3]`: the counts of `BagLengths.observe` in each process."""
    times: int
    """The greatest `times` of all processes."""
    times_agree: bool
    """True if all processes have the same `times`."""
    is_filled: bool
    """True if a process has missing samples, which are filled up."""
    sizes: list[list[int]]
    """The greatest wish of all processes for each padded size, per stack."""


def tell(group: HostGroup, report: Report) -> Told:
    """Exchange the reports on one batch; a collective call.

    Raises:
        Exception: `report.error`; PeerError if another process has an error.
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


def most(group: HostGroup, values: list[int]) -> list[int]:
    """The greatest of the numbers that the processes give, for each position; a collective call."""
    with phase("exchange"):
        if group.size == 1:
            return values
        greatest: list[int] = group.gather(host.ints(values)).amax(0).tolist()
    return greatest


def _refuse(kinds: list[str]) -> None:
    rank = next(rank for rank, other in enumerate(kinds) if other != kinds[0])
    raise ValueError(
        "enqueue: the processes gave different kinds of batches: [(feature, one-hot, shape), …] is "
        f"{kinds[0]} on process 0 and {kinds[rank]} on process {rank}; every process must enqueue the same "
        "kinds of features in the same order"
    )


def kinds_of(bags: Sequence[Bags], training: bool) -> str:
    """A text of the kinds of features in a batch, which must be equal in all processes.

    Args:
        bags: of one device.
    """
    kinds = [(number, each.bag is None, each.shape) for number, each in enumerate(bags)]
    return f"{'training' if training else 'inference'}{kinds}"

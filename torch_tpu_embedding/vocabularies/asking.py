"""Ids sent to the processes that have their maps, and the rows sent back.

A head tells all processes how many ids travel, and whether one of them has no batch, before anything is
changed. Letters: N ids, S processes, T tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..distributed.calls import calling
from ..distributed.group import HostGroup, report_failure
from ..distributed.placement import Placement
from ..runtime import host
from .id_maps.id_index import Ids
from .owners import owners, process_of

RowNumbers = NDArray[np.int64] | NDArray[np.int32]


@dataclass(frozen=True)
class Asked:
    """The ids of one table that one process is asked for, by all."""

    ids: Ids
    """`[N]`; one process may name an id more than once only if it is alone."""
    times: NDArray[np.int64] | None = None
    """`[N]`: the number of times that each occurs in its batch; None for once each time it is named."""


Answer = Callable[[Mapping[int, Asked]], Mapping[int, RowNumbers]]


def ask(
    group: HostGroup,
    placement: Placement,
    call: str,
    kind: int,
    ids: Mapping[int, Ids] | Exception,
    tables: list[int],
    answer: Answer,
) -> dict[int, RowNumbers]:
    """The rows of ids, by the maps of the processes that own them; a collective call.

    Args:
        call: the user's call, for messages.
        kind: a number that must be equal in all processes; ValueError if it is not.
        ids: table → its ids `[N]`, or the error because of which this process has none.
        tables: all tables that have maps.
        answer: gives the rows of ids that this process owns.

    Raises:
        Exception: `ids`, if it is one; PeerError if another process gave one.
    """
    if group.size == 1:
        if isinstance(ids, Exception):
            raise ids
        return {**answer({table: Asked(each) for table, each in ids.items()})}
    leaving, inverse, orders, counts = _sorted_by_owner(placement, ids, tables)
    failed = isinstance(ids, Exception)
    head = torch.cat([host.ints([failed, kind]), torch.from_numpy(counts.reshape(-1))])
    with calling(call):
        told = group.gather(head)
        if bool(told[:, 0].any()):
            report_failure(group, call, ids if isinstance(ids, Exception) else None)
        if bool((told[:, 1] != told[0, 1]).any()):
            raise ValueError(
                f"{call}: some processes gave a batch for training, others one for inference; all must "
                "give the same kind"
            )
        shape = group.size, len(tables), group.size
        all_counts = told[:, 2:].reshape(shape).numpy()  # [asking, table, asked]
        mine = all_counts[:, :, group.rank]
        received = group.all_to_all(
            [_packed(leaving, counts, to) for to in range(group.size)], (2 * mine.sum(1)).tolist()
        )
        rows = answer(_questions(received, mine, tables))
        back = group.all_to_all(
            [_reply(rows, mine, tables, to) for to in range(group.size)], counts.sum(0).tolist()
        )
    found: dict[int, RowNumbers] = {}
    pieces = [np.split(part.numpy(), counts[:, p].cumsum()[:-1]) for p, part in enumerate(back)]
    for number, table in enumerate(tables):
        of_table = np.concatenate([pieces[p][number] for p in range(group.size)])
        distinct = np.empty_like(of_table)
        distinct[orders[number]] = of_table
        found[table] = distinct.take(inverse[number])
    return found


def _sorted_by_owner(
    placement: Placement, ids: Mapping[int, Ids] | Exception, tables: list[int]
) -> tuple[
    list[tuple[Ids, NDArray[np.int64]]], list[NDArray[np.int64]], list[NDArray[np.int64]], NDArray[np.int64]
]:  # fmt: skip
    """Per table the distinct ids by rising owner with the times of each, the way back from each id to them,
    and their order; and how many go to each process, `[T, S]`."""
    leaving, inverses, orders = [], [], []
    counts = np.zeros((len(tables), placement.num_shards), np.int64)
    for number, table in enumerate(tables):
        asked = np.empty(0, np.int64) if isinstance(ids, Exception) else ids[table]
        distinct, inverse, times = np.unique(asked, return_inverse=True, return_counts=True)
        process = process_of(placement, table, owners(distinct, placement.num_devices))
        order = np.argsort(process, kind="stable")
        leaving.append((distinct.take(order), times.take(order)))
        inverses.append(inverse)
        orders.append(order)
        counts[number] = np.bincount(process, minlength=placement.num_shards)
    return leaving, inverses, orders, counts


def _packed(
    leaving: list[tuple[Ids, NDArray[np.int64]]], counts: NDArray[np.int64], to: int
) -> torch.Tensor:
    """The message to one process: table after table, ids and then their times."""
    parts = []
    for (ids, times), of_table in zip(leaving, counts, strict=True):
        end = int(of_table[: to + 1].sum())
        here = slice(end - int(of_table[to]), end)
        parts += [ids[here], times[here]]
    return torch.from_numpy(np.concatenate(parts))


def _questions(
    received: list[torch.Tensor], counts: NDArray[np.int64], tables: list[int]
) -> dict[int, Asked]:
    """The ids of each table that all processes ask for, in the order of these.

    Args:
        counts: `[S, T]`: how many each asks for.
    """
    pieces = [
        np.split(part.numpy(), np.repeat(of_peer, 2).cumsum()[:-1])
        for part, of_peer in zip(received, counts, strict=True)
    ]
    return {
        table: Asked(
            np.concatenate([of_peer[2 * number] for of_peer in pieces]),
            np.concatenate([of_peer[2 * number + 1] for of_peer in pieces]),
        )
        for number, table in enumerate(tables)
    }


def _reply(
    rows: Mapping[int, RowNumbers], counts: NDArray[np.int64], tables: list[int], to: int
) -> torch.Tensor:
    """The rows that one process has asked for, table after table."""
    parts = []
    for number, table in enumerate(tables):
        end = int(counts[: to + 1, number].sum())
        parts.append(rows[table][end - int(counts[to, number]) : end].astype(np.int64))
    return torch.from_numpy(np.concatenate(parts))

"""Rows of tables by their ids, whichever process holds them: read, written, and searched by score.

Every call is collective. Its processes first agree on what must be common to them, or fail together; ids
then travel to the processes that hold the rows, and rows back, in pieces of a bounded size. Processes learn
one another's sizes first, for those of a TPU that share a program must run the same ones.

Letters: N ids, U distinct ids, D dim, B queries, S processes.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ...config.resolved import Table, field_shape
from ...distributed.group import HostGroup, raise_together
from ...distributed.placement import Placement
from ...runtime import host
from .scoring import Best, Search

_BLOCK_BYTES = 8 << 20
_MOST_QUERIES = 256  # searched at once
_MOST_RESULTS = 1 << 22  # of a search: queries times k


class _Scorer(Protocol):
    def find(self, search: Search) -> Best:
        """The best of the rows that a process holds."""


class HeldRows(Protocol):
    """The rows of all tables that a process holds."""

    group: HostGroup

    def ids(self, table: int) -> range:
        """The ids of a table held here."""

    def read_few(self, table: int, rows: Tensor, field: str, most: int | None = None) -> Tensor:
        """One field of the rows of these numbers (int64, rising)."""

    def write_scattered(
        self, table: int, rows: Tensor, values: dict[str, Tensor], most: int | None = None
    ) -> None:
        """Set the rows of these numbers."""

    def scorer(self, table: int) -> _Scorer:
        """A search among them."""


class RowsOfAll:
    """The rows of one table, in all processes.

    Args:
        number: of the table.
    """

    def __init__(self, held: HeldRows, placement: Placement, table: Table, number: int) -> None:
        self._held = held
        self._group = held.group
        self._placement = placement
        self._table = table
        self._number = number
        self._ids = held.ids(number)

    def read(self, field: str, ids: Tensor) -> Tensor:
        """A field of the rows of these ids `[N]`: `[N, width]`. Each process asks for its own."""
        wanted, positions = torch.unique(ids, return_inverse=True)
        width = field_shape(self._table, field)[1]
        if self._group.size == 1:
            return self._own(field, wanted, None)[positions]
        block = max(1, _BLOCK_BYTES // (4 * width * self._group.size))
        counts = self._group.gather(host.ints([len(wanted)]))
        found = host.empty(len(wanted), width)
        for start in range(0, int(counts.max()), block):
            part = wanted[start : start + block]
            order, sizes = self._by_owner(part)
            asked, lengths, most = self._send(part[order], sizes)
            distinct, back = torch.unique(asked, return_inverse=True)
            rows = self._own(field, distinct, most)[back]
            pieces = torch.split(rows.reshape(-1), [width * length for length in lengths])
            answers = self._group.all_to_all(pieces, [width * size for size in sizes])
            found[start : start + block][order] = torch.cat(answers).view(-1, width)
        return found[positions]

    def write(self, call: str, ids: Tensor, values: dict[str, Tensor]) -> None:
        """Set fields `[N, width]` of the rows of these ids `[N]`, of which none occurs twice.

        Raises:
            ValueError: another process gives other values for one of them; nothing has changed then.
        """
        if self._group.size == 1:
            if len(ids):
                self._held.write_scattered(self._number, self._row_numbers(ids), values)
            return
        order, sizes = self._by_owner(ids)
        given, lengths, most = self._send(ids[order], sizes)
        received = {}
        for name, value in values.items():
            width = value.shape[1]
            pieces = torch.split(value[order].reshape(-1), [width * size for size in sizes])
            parts = self._group.all_to_all(pieces, [width * length for length in lengths])
            received[name] = torch.cat(parts).view(-1, width)
        distinct, which = torch.unique(given, return_inverse=True)
        first = torch.full_like(distinct, len(given)).scatter_reduce(
            0, which, host.arange(len(given)), "amin"
        )
        error = self._conflict(call, given, first[which], received, lengths)
        raise_together(self._group, call, error)
        if most:
            chosen = {name: value[first] for name, value in received.items()}
            rows = self._row_numbers(distinct)
            self._held.write_scattered(self._number, rows, chosen, most)

    def span(self, field: str, start: int, stop: int) -> Tensor:
        """A field of the rows of the ids start … stop-1, `[stop - start, width]`, in every process."""
        width = field_shape(self._table, field)[1]
        found = host.empty(stop - start, width)
        block = 1 << (max(1, _BLOCK_BYTES // (4 * width)).bit_length() - 1)
        ranks = range(self._group.size)
        ids = [self._ids_of(rank) for rank in ranks]
        for begin in range(start, stop, block):
            end = min(begin + block, stop)
            theirs = [each[bisect_left(each, begin) : bisect_left(each, end)] for each in ids]
            most = max(map(len, theirs)) if len(ranks) > 1 else None
            mine = theirs[self._group.rank]
            rows = self._own(field, host.arange(mine.start, mine.stop, mine.step), most)
            sizes = [width * len(each) for each in theirs]
            parts = self._group.all_to_all([rows.reshape(-1)] * len(ranks), sizes)
            for each, part in zip(theirs, parts, strict=True):
                if len(each):
                    there = slice(each.start - start, each.stop - start, each.step)
                    found[there] = part.view(-1, width)
        return found

    def search(self, queries: Tensor, k: int, start: int, stop: int, cosine: bool) -> Best:
        """The k best rows `[B, k]` for each query `[B, D]`, among the ids start … stop-1: scores and ids.

        Every process searches its rows for the queries of all.
        """
        size, mine = self._group.size, len(queries)
        counts = [mine] if size == 1 else self._group.gather(host.ints([mine]))[:, 0].tolist()
        if cosine:
            queries = torch.nn.functional.normalize(queries, dim=1)
        lengths = [count * queries.shape[1] for count in counts]
        parts = self._group.all_to_all([queries.reshape(-1)] * size, lengths)
        everyones = torch.cat(parts).view(-1, queries.shape[1])
        scores, ids = self._search_here(everyones, k, start, stop, cosine)
        lengths = [count * k for count in counts]
        sent = [k * mine] * size
        of_scores = self._group.all_to_all(torch.split(scores.reshape(-1), lengths), sent)
        of_ids = self._group.all_to_all(torch.split(ids.reshape(-1), lengths), sent)
        return merge(
            torch.cat([part.view(mine, k) for part in of_scores], 1),
            torch.cat([part.view(mine, k) for part in of_ids], 1),
            k,
        )

    def _search_here(self, queries: Tensor, k: int, start: int, stop: int, cosine: bool) -> Best:
        """Scores and ids `[B, k]` of the best rows held here; -inf and -1 where there are fewer."""
        block = max(1, min(_MOST_QUERIES, _MOST_RESULTS // k))
        padding = self._table.padding_row
        held = self._ids
        skip = held.index(padding) if padding is not None and padding in held else -1
        first, end = bisect_left(held, start), bisect_left(held, stop)
        everyones = [self._ids_of(rank) for rank in range(self._group.size)]
        most = max(bisect_left(each, stop) - bisect_left(each, start) for each in everyones)
        scorer = self._held.scorer(self._number)
        found = [(host.empty(0, k), host.ints([]).view(0, k))]
        for part in torch.split(queries, block) if len(queries) else ():
            scores, numbers = scorer.find(Search(part, k, first, end, skip, most, cosine))
            ids = torch.where(numbers >= 0, held.start + numbers * held.step, -1)
            found.append(merge(scores, ids, k))
        return torch.cat([each for each, _ in found]), torch.cat([each for _, each in found])

    def _own(self, field: str, ids: Tensor, most: int | None) -> Tensor:
        """A field of rows that this process holds, of rising ids."""
        return self._held.read_few(self._number, self._row_numbers(ids), field, most)

    def _row_numbers(self, ids: Tensor) -> Tensor:
        return (ids - self._ids.start) // self._ids.step

    def _ids_of(self, rank: int) -> range:
        placement = replace(self._placement, rank=rank)
        return placement.ids(self._number, self._table.vocabulary_size)

    def _by_owner(self, ids: Tensor) -> tuple[Tensor, list[int]]:
        """The order in which ids are sent, owner after owner, and how many each owner gets."""
        device = self._placement.locate(self._number, self._table.vocabulary_size, ids)[0]
        owner = device // self._placement.local_devices
        sizes: list[int] = torch.bincount(owner, minlength=self._group.size).tolist()
        return owner.argsort(stable=True), sizes

    def _send(self, ids: Tensor, sizes: list[int]) -> tuple[Tensor, list[int], int]:
        """Give ids to their owners: those that came here, how many from each, and the most of any owner."""
        told = self._group.gather(host.ints(sizes))
        lengths: list[int] = told[:, self._group.rank].tolist()
        received = self._group.all_to_all(torch.split(ids, sizes), lengths)
        return torch.cat(received), lengths, int(told.sum(0).max())

    def _conflict(
        self,
        call: str,
        given: Tensor,
        first: Tensor,
        values: dict[str, Tensor],
        lengths: list[int],
    ) -> ValueError | None:
        """The error for an id that two processes give different values, or None."""
        differs = torch.zeros(len(given), dtype=torch.bool, device="cpu")
        for value in values.values():
            differs |= (value != value[first]).any(1)
        if not bool(differs.any()):
            return None
        rank_of = host.arange(len(lengths)).repeat_interleave(host.ints(lengths))
        at = int(differs.nonzero()[0])
        return ValueError(
            f"{call}: table {self._table.name!r}: id {int(given[at])} gets different values from process "
            f"{int(rank_of[first[at]])} and process {int(rank_of[at])}; write a row in one process, or the "
            "same values in all"
        )


def merge(scores: Tensor, ids: Tensor, k: int) -> Best:
    """The best k of each row of candidates `[B, m]`, falling; of equal scores the lower id comes first.

    What is missing (-inf and -1) comes last, and fills up.
    """
    order = torch.where(ids < 0, torch.iinfo(torch.int64).max, ids).argsort(dim=1, stable=True)
    scores, ids = scores.gather(1, order), ids.gather(1, order)
    best = scores.sort(dim=1, descending=True, stable=True)
    return best.values[:, :k], ids.gather(1, best.indices)[:, :k]

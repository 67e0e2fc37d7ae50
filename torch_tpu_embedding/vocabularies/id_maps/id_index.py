"""An index from ids to rows: a hash table with open addressing, in numpy, for many ids at a time.

Letters: N ids, V rows, C places of the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Rows = NDArray[np.int32]

_EMPTY, _REMOVED = -1, -2
_PLACES_A_ROW = 3
_MOST_PLACES = (1 << 31) - 1
_MOST_TAKEN = 0.7
"""The share of places, those of removed ids included, above which the table is made anew."""
_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))


class IdIndex:
    """Which row each of at most V ids has. Linear probing, all ids of a call a place at a time.

    A place holds a row, or says that it is empty; ids lie by row. That takes 4 bytes a place, and 12 bytes
    a row for the id and the way back: 24 bytes a row. Masks are used by arithmetic and `compress`, never
    by `where` or as an index: these take a branch an element, which random ids mispredict.

    Args:
        num_rows: V, at most 2^30; rows are 0 … V-1.
    """

    def __init__(self, num_rows: int) -> None:
        self._size = min(max(_PLACES_A_ROW * num_rows, 8), _MOST_PLACES)
        self._rows = np.full(self._size, _EMPTY, np.int32)
        self._ids = np.zeros(max(num_rows, 1), np.int64)  # of none, too, one is looked at
        self._place = np.full(num_rows, _EMPTY, np.int32)
        self._taken = 0

    def find(self, ids: Ids) -> Rows:
        """The row of each id `[N]`, -1 where it has none. An id may occur more than once."""
        place = self._home(ids)
        rows = self._rows.take(place)
        same = self._has(rows, ids)
        found = rows | (same.view(np.int8) - np.int8(1))  # -1 where it is not the same
        left = np.flatnonzero((rows != _EMPTY) > same)
        ids, place = ids.take(left), place.take(left)
        while left.size:
            place = self._next(place)
            rows = self._rows.take(place)
            same = self._has(rows, ids)
            found[left.compress(same)] = rows.compress(same)
            on = (rows != _EMPTY) > same
            left, ids, place = left.compress(on), ids.compress(on), place.compress(on)
        return found

    def ids_of(self, rows: NDArray[np.integer[Any]]) -> Ids:
        """The ids of rows that have one."""
        return self._ids.take(rows)

    def has_id(self) -> NDArray[np.bool_]:
        """`[V]`: True for a row that has an id."""
        return self._place >= 0

    def part(self, start: int, stop: int) -> tuple[Ids, NDArray[np.bool_]]:
        """Rows start … stop-1: the id of each that has one, in memory of its own; and which have one."""
        return self._ids[start:stop].copy(), self._place[start:stop] >= 0

    def have_ids(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """True for each of these rows that has an id."""
        return self._place.take(rows) >= 0

    def insert(self, ids: Ids, rows: Rows) -> None:
        """Give ids that have none rows that have none; each occurs once."""
        if self._taken + len(ids) > _MOST_TAKEN * self._size:
            self._make_anew()
        self._ids[rows] = ids
        self._insert(ids, rows)

    def remove(self, rows: Rows) -> None:
        """Take the ids of these rows away; each occurs once and has one."""
        place = self._place.take(rows).astype(np.int64)
        self._place[rows] = _EMPTY
        self._rows[place] = _REMOVED
        # Where nothing lies behind it, a place is empty again, for no search goes on from there.
        ends = place.compress(self._rows.take(self._next(place)) == _EMPTY)
        while ends.size:
            self._rows[ends] = _EMPTY
            self._taken -= len(ends)
            before = ends - 1
            before[before < 0] = self._size - 1
            ends = before.compress(self._rows.take(before) == _REMOVED)

    def _make_anew(self) -> None:
        """Forget the places of removed ids."""
        rows = np.flatnonzero(self.has_id()).astype(np.int32)
        self._rows.fill(_EMPTY)
        self._taken = 0
        self._insert(self.ids_of(rows), rows)

    def _insert(self, ids: Ids, rows: Rows) -> None:
        place = self._home(ids)
        while rows.size:
            there = self._rows.take(place)
            free = there < 0
            at, mine = place.compress(free), rows.compress(free)
            self._rows[at] = mine  # of several rows for one place the last stays
            won = self._rows.take(at) == mine
            self._place[mine.compress(won)] = at.compress(won)
            self._taken += int((won & (there.compress(free) == _EMPTY)).sum())
            on = ~free
            on[np.flatnonzero(free).compress(~won)] = True
            rows, place = rows.compress(on), self._next(place.compress(on))

    def _has(self, rows: Rows, ids: Ids) -> NDArray[np.bool_]:
        """True where what a place holds is the row of the id."""
        # An index of -1 or -2 takes an id from the end, which does not count.
        same: NDArray[np.bool_] = self._ids.take(rows, mode="wrap") == ids
        return same & (rows >= 0)

    def _next(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places behind these."""
        behind = place + 1
        behind[behind == self._size] = 0
        return behind

    def _home(self, ids: Ids) -> NDArray[np.int64]:
        """The first place to look for each id `[N]`: the upper half of a 64-bit hash, scaled to C."""
        h = ids.view(np.uint64) >> np.uint64(32)
        h ^= ids.view(np.uint64)
        h *= _FACTORS[0]
        h ^= h >> np.uint64(29)
        h *= _FACTORS[1]
        h >>= np.uint64(32)
        h *= np.uint64(self._size)
        h >>= np.uint64(32)
        return h.view(np.int64)

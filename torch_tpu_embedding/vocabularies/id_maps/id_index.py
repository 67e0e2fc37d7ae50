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
_PLACES_A_ROW = 1.8
_MOST_TAKEN = 0.75
"""The share of places, those of removed ids included, above which the table is made anew."""
_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))


class IdIndex:
    """Which row each of at most V ids has. Linear probing, all ids of a call a place at a time.

    It takes 12 bytes a place, and 4 bytes a row for the way back: 26 bytes a row.

    Args:
        num_rows: V, at most 2^30; rows are 0 … V-1.
    """

    def __init__(self, num_rows: int) -> None:
        self._size = max(int(_PLACES_A_ROW * num_rows), 8)
        self._ids = np.zeros(self._size, np.int64)
        self._rows = np.full(self._size, _EMPTY, np.int32)
        self._place = np.full(num_rows, _EMPTY, np.int32)
        self._taken = 0

    def find(self, ids: Ids) -> Rows:
        """The row of each id `[N]`, -1 where it has none. An id may occur more than once."""
        place = self._home(ids)
        rows = self._rows.take(place)
        same = self._ids.take(place) == ids
        found = np.where(same & (rows >= 0), rows, np.int32(_EMPTY))
        left = np.flatnonzero((rows != _EMPTY) & (found < 0))
        ids, place = ids.take(left), place.take(left)
        while left.size:
            place += 1
            place[place == self._size] = 0
            rows = self._rows.take(place)
            here = (self._ids.take(place) == ids) & (rows >= 0)
            found[left[here]] = rows[here]
            on = np.flatnonzero((rows != _EMPTY) & ~here)
            left, ids, place = left.take(on), ids.take(on), place.take(on)
        return found

    def ids_of(self, rows: NDArray[np.integer[Any]]) -> Ids:
        """The ids of rows that have one."""
        return self._ids.take(self._place.take(rows))

    def has_id(self) -> NDArray[np.bool_]:
        """`[V]`: True for a row that has an id."""
        return self._place >= 0

    def insert(self, ids: Ids, rows: Rows) -> None:
        """Give ids that have none rows that have none; each occurs once."""
        if self._taken + len(ids) > _MOST_TAKEN * self._size:
            self._make_anew()
        self._insert(ids, rows)

    def remove(self, rows: Rows) -> None:
        """Take the ids of these rows away; each occurs once and has one."""
        place = self._place[rows]
        self._place[rows] = _EMPTY
        self._rows[place] = _REMOVED
        # Where nothing lies behind it, a place is empty again, for no search goes on from there.
        behind = place + 1
        behind[behind == self._size] = 0
        ends = place[self._rows[behind] == _EMPTY]
        self._rows[ends] = _EMPTY
        self._taken -= len(ends)

    def _make_anew(self) -> None:
        """Forget the places of removed ids."""
        rows = np.flatnonzero(self.has_id()).astype(np.int32)
        ids = self.ids_of(rows)
        self._rows.fill(_EMPTY)
        self._taken = 0
        self._insert(ids, rows)

    def _insert(self, ids: Ids, rows: Rows) -> None:
        place = self._home(ids)
        while ids.size:
            there = self._rows.take(place)
            free = np.flatnonzero(there < 0)
            at, mine = place.take(free), rows.take(free)
            was_empty = there.take(free) == _EMPTY
            self._rows[at] = mine  # of several rows for one place the last stays
            won = self._rows.take(at) == mine
            stay, at = free[won], at[won]
            self._ids[at] = ids.take(stay)
            self._place[rows.take(stay)] = at
            self._taken += int(was_empty[won].sum())
            on = np.ones(len(ids), np.bool_)
            on[stay] = False
            ids, rows, place = ids[on], rows[on], place[on] + 1
            place[place == self._size] = 0

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

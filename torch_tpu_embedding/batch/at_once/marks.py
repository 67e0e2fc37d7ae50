"""The ids of tables that have few rows for their lookups: marked, where others are sorted.

Letters: B batch, T tables, V rows of all of them, N lookups, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .region import Found, Region, adjacent, cut_by_region

_Array = NDArray[Any]


class Marks:
    """Finds the distinct ids of several tables as `dedup.unique_inverse` does, all at once; methods as
    those that `stack.py` calls.

    Args:
        runs: the regions of each table.
        rows: of each table.
    """

    def __init__(self, runs: Sequence[Sequence[Region]], rows: Sequence[int]) -> None:
        self._regions = [each for run in runs for each in run]
        self._ends = np.cumsum(rows)
        self._first = self._ends - rows
        """The mark of each table's first row."""
        pairs = zip(runs, self._first.tolist(), strict=True)
        self._firsts = [first for run, first in pairs for _ in run]
        self._keys = np.empty(sum(each.count for each in self._regions), dtype=np.int64)
        self._pieces = cut_by_region(self._keys, self._regions)
        self._marks = np.empty(int(self._ends[-1]), dtype=bool)
        self._rank = np.empty(self._marks.size, dtype=np.int32)
        self._unique = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._together = adjacent(self._regions)

    def find(self, parts: Sequence[_Array], matrix: _Array | None, before: _Array | None) -> Found:
        for region, piece, first in zip(self._regions, self._pieces, self._firsts, strict=True):
            np.add(region.by_position(parts[region.feature]), first, out=piece)
        self._marks.fill(False)
        self._marks[self._keys] = True
        self._unique = self._marks.nonzero()[0]
        ends = np.searchsorted(self._unique, self._ends)
        self._counts = np.diff(ends, prepend=0)
        return Found(self._unique - np.repeat(self._first, self._counts), self._counts)

    def write(self, rows: _Array, starts: _Array) -> None:
        shifts = starts - (self._counts.cumsum() - self._counts)
        numbers = np.arange(self._unique.size, dtype=np.int32)
        numbers += np.repeat(shifts.astype(np.int32), self._counts)
        self._rank[self._unique] = numbers
        if self._together:
            start = self._regions[0].start
            self._rank.take(self._keys, out=rows[start : start + self._keys.size], mode="clip")
            return
        for region, piece in zip(self._regions, self._pieces, strict=True):
            region.of(rows)[...] = self._rank.take(piece, mode="clip")

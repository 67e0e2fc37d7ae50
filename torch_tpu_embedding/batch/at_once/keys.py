"""The ids of several tables, sorted by one call where their tables are of one size; what does not depend on
the ids is found once.

An id and the number of its lookup are one 32-bit key, so that a sort of the keys brings both in order.

Letters: B batch, F features, T tables, N lookups of them, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .region import Found, Region, cut_by_region, lengths_of

_Array = NDArray[Any]
_WORD = 32


def fits(rows: int, run: Sequence[Region]) -> bool:
    """True if an id of a table and the number of its lookup fit into a key.

    Args:
        rows: of the table. run: its regions.
    """
    return (rows - 1).bit_length() + _number_bits(run) <= _WORD


def _begin(run: Sequence[Region]) -> int:
    """The first lookup of a table, from which its lookups are numbered."""
    return min(each.start for each in run)


def _number_bits(run: Sequence[Region]) -> int:
    last = max(each.start + (each.length - 1) * each.stride + each.size - 1 for each in run)
    return (last - _begin(run)).bit_length()


class KeySort:
    """Sorts the ids of tables for which `fits`; methods as those that `stack.py` calls.

    Args:
        runs: the regions of each table, at least one of each.
        num_lookups: of the stack, other tables included.
    """

    def __init__(self, runs: Sequence[Sequence[Region]], num_lookups: int) -> None:
        self._regions = [each for run in runs for each in run]
        self._features = [each.feature for each in self._regions]
        lengths = lengths_of(runs)
        self._ends = lengths.cumsum()
        self._starts = self._ends - lengths
        total = int(lengths.sum())
        every = np.arange(num_lookups, dtype=np.uint32)
        begins = np.array([*map(_begin, runs)], dtype=np.uint32)
        numbers = [
            np.concatenate([each.of(every).ravel() for each in run]) - begin
            for run, begin in zip(runs, begins, strict=True)
        ]
        bits = np.array([*map(_number_bits, runs)], dtype=np.uint32)
        is_even = all(np.array_equal(each, numbers[0]) for each in numbers)
        self._shape = (len(runs), -1) if is_even else (-1,)
        # One row for all tables, where their lookups are numbered alike; else an item for each key.
        self._numbers = numbers[0] if is_even else np.concatenate(numbers)
        self._bits = bits[0] if is_even else np.repeat(bits, lengths)
        self._mask = (np.uint32(1) << self._bits) - np.uint32(1)
        self._begins = begins[:, None] if is_even else np.repeat(begins, lengths)
        self._keys = np.empty(total, dtype=np.uint32)
        self._places = np.empty(total, dtype=np.uint32)
        self._lookups = torch.empty(total, dtype=torch.int64, device="cpu")
        self._rank = torch.empty(total, dtype=torch.int32, device="cpu")
        self._pieces = cut_by_region(self._keys, self._regions)
        self._rows = self._equal_tables(lengths)

    def _equal_tables(self, lengths: NDArray[np.int64]) -> list[_Array]:
        """The keys of each table, where neighbours with equally many are the rows of one array."""
        found, at = [], 0
        for length, several in groupby(lengths.tolist()):
            end = at + length * len([*several])
            found.append(self._keys[at:end].reshape(-1, length))
            at = end
        return found

    def find(self, parts: Sequence[_Array], matrix: _Array | None, before: _Array | None) -> Found:
        keys = self._keys.reshape(self._shape)
        self._fill(parts, matrix)
        keys <<= self._bits
        keys |= self._numbers
        for rows in self._rows:
            rows.sort(axis=1)
        places = self._places.reshape(self._shape)
        np.bitwise_and(keys, self._mask, out=places)
        places += self._begins
        np.copyto(self._lookups.numpy(), self._places)
        keys >>= self._bits
        is_first = np.empty(self._keys.size, dtype=bool)
        np.not_equal(self._keys[1:], self._keys[:-1], out=is_first[1:])
        is_first[self._starts] = True
        # Sums of int32 take torch a third of the time that sums of bool to int32 take it or numpy.
        rank = self._rank.copy_(torch.from_numpy(is_first)).numpy()
        rank[0] = 0
        if before is not None:
            rank[self._starts] += np.diff(before, prepend=0)
        torch.cumsum(self._rank, 0, out=self._rank)
        counts = rank[self._ends - 1] - rank[self._starts] + 1
        # Signed, as records are: numpy adds numbers of two types in five times the time.
        return Found(self._keys.compress(is_first).view(np.int32), counts)

    def _fill(self, parts: Sequence[_Array], matrix: _Array | None) -> None:
        if matrix is None:
            for region, piece in zip(self._regions, self._pieces, strict=True):
                np.copyto(piece, region.by_position(parts[region.feature]), casting="unsafe")
            return
        as_given = self._features == [*range(len(matrix))]
        mine = matrix if as_given else matrix[self._features]
        np.copyto(self._keys.reshape(mine.shape), mine, casting="unsafe")

    def write(self, rows: _Array, starts: _Array) -> None:
        torch.from_numpy(rows).scatter_(0, self._lookups, self._rank)

"""Unique keys and the way back from each occurrence: by marks where keys are dense, else by a sort.

`unique_inverse` is the reference; `Ranks` gives the same in less time where there is memory for a number
for each possible key.

Letters: N lookups, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KEY_BITS = 63
_MARKS_PER_KEY = 4
"""The ratio of possible to given keys from which on marking keys takes longer than sorting them."""

_MOST_RANKS = 1 << 23
"""The most possible keys for which `Ranks` keeps a number each: 32 MiB. More lie so far apart in memory
that a sort of larger keys takes no longer."""


class Ranks:
    """Unique keys by a sort of 32-bit keys alone, and the way back by a number for each possible key.

    The numbers stay in memory between calls, and only those of the keys that occur are written; so one
    object is for one thread.
    """

    def __init__(self) -> None:
        self._rank = np.empty(0, dtype=np.int32)

    @staticmethod
    def can_hold(bound: int) -> bool:
        """True if there are few enough possible keys."""
        return bound <= _MOST_RANKS

    def unique_inverse(
        self, keys: Tensor, bound: int, runs: Sequence[Sequence[slice]] = ()
    ) -> tuple[Tensor, Tensor]:
        """The same as `unique_inverse` of this file, without changing `keys`, and with int32 keys.

        Args:
            keys: `[N]` int64 in [0, bound).
            bound: how many different keys there could be.
            runs: parts of `keys`, of which each is in one run, and no run is empty. Every key of a run is
                less than every key of the next one, so that each run is sorted alone. Without runs all are
                sorted at once.

        Returns:
            The distinct keys, `[U]` int32, rising, and the position of each key among them, `[N]` int32.
        """
        given = keys.numpy()
        unique = _without_equal(_sorted_runs(given, runs)).view(np.int32)
        return torch.from_numpy(unique), torch.from_numpy(self._positions(unique, given, bound))

    def unique_in_runs(
        self, keys: NDArray[np.int64], bound: int, runs: Sequence[Run]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The same again, where keys are marked in the runs that are dense, and sorted in all others.

        Args:
            keys: `[N]` in [0, bound).
            runs: which lie one after another in `keys`.

        Returns:
            The distinct keys, `[U]`, rising, and the position of each key among them, `[N]`.
        """
        if not self.can_hold(bound):
            unique, inverse = unique_inverse(torch.from_numpy(keys.copy()), bound)
            return unique.numpy().astype(np.int32), inverse.numpy()
        found = [_distinct(keys[run.part], run) for run in runs]
        distinct = np.concatenate([np.empty(0, dtype=np.int32), *found], dtype=np.int32)
        return distinct, self._positions(distinct, keys, bound)

    def _positions(
        self, distinct: NDArray[np.int32], keys: NDArray[np.int64], bound: int
    ) -> NDArray[np.int32]:
        """The position of each key among the distinct ones."""
        if self._rank.size < bound:
            self._rank = np.empty(bound, dtype=np.int32)
        # torch scatters in half of numpy's time; numpy selects in a fraction of torch's.
        number = torch.arange(distinct.size, dtype=torch.int32, device="cpu")
        torch.from_numpy(self._rank).scatter_(0, torch.from_numpy(distinct).long(), number)
        return self._rank.take(keys, mode="clip")


@dataclass(frozen=True)
class Run:
    """Keys of which every one is less than every key of the next run."""

    part: slice
    """Where they lie among all keys."""
    first: int
    """The least that a key can be."""
    rows: int
    """How many different keys there could be."""

    @property
    def is_dense(self) -> bool:
        """True if its keys are faster marked than sorted."""
        return are_dense(self.part.stop - self.part.start, self.rows)


def _distinct(keys: NDArray[np.int64], run: Run) -> NDArray[Any]:
    """The distinct keys of a run, which rise."""
    if not run.is_dense:
        ordered = keys.astype(np.uint32)
        ordered.sort()
        return _without_equal(ordered)
    marks = np.zeros(run.rows, dtype=bool)
    marks[keys - run.first if run.first else keys] = True
    return marks.nonzero()[0] + run.first


def _without_equal(ordered: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Keys that rise, each once."""
    if not ordered.size:
        return ordered
    is_first = np.empty(ordered.size, dtype=bool)
    is_first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered.compress(is_first)


def _sorted_runs(keys: NDArray[np.int64], runs: Sequence[Sequence[slice]]) -> NDArray[np.uint32]:
    """All keys sorted, as 32-bit numbers, given that the runs follow each other."""
    pieces = [keys[part] for run in runs for part in run]
    ordered = np.empty(keys.size, dtype=np.uint32)
    if not pieces:
        ordered[:] = keys
        ordered.sort()
        return ordered
    np.concatenate(pieces, out=ordered, casting="unsafe")
    if len(runs) == len(pieces) and len({piece.size for piece in pieces}) == 1:
        ordered.reshape(len(runs), -1).sort(axis=1)
        return ordered
    end = 0
    for run in runs:
        start, end = end, end + sum(part.stop - part.start for part in run)
        ordered[start:end].sort()
    return ordered


def unique_by(
    ranks: Ranks | None, keys: Tensor, bound: int, runs: Sequence[Sequence[slice]] = ()
) -> tuple[Tensor, Tensor]:
    """Distinct keys, rising, and the position of each key among them, in the way that takes least time.

    Args:
        ranks: used where they can hold the keys; None for the slower reference.
        keys: `[N]` int64 in [0, bound); overwritten.
        bound: how many different keys there could be.
        runs: as for `Ranks.unique_inverse`.
    """
    if ranks is not None and ranks.can_hold(bound) and not are_dense(keys.numel(), bound):
        return ranks.unique_inverse(keys, bound, runs)
    return unique_inverse(keys, bound)


def are_dense(count: int, bound: int) -> bool:
    """True if `count` keys of `bound` possible ones are faster marked than sorted."""
    return bound <= _MARKS_PER_KEY * count


def unique_inverse(keys: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """The same as `torch.unique(keys, return_inverse=True)`, in a third to a tenth of its time.

    Args:
        keys: `[N]` int64 in [0, bound); overwritten.
        bound: how many different keys there could be.

    Returns:
        The distinct keys, `[U]` int64, rising, and the position of each key among them, `[N]` int32.
    """
    count = keys.numel()
    position_bits = count.bit_length()
    if are_dense(count, bound):
        return _by_marks(keys, bound)
    if count == 0 or (bound - 1).bit_length() + position_bits > _KEY_BITS:
        unique, inverse = torch.unique(keys, return_inverse=True)
        return unique, inverse.to(torch.int32)
    return _by_sort(keys, position_bits)


def _by_marks(keys: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """Mark each key that occurs, number the marked keys, and look up the numbers."""
    given = keys.numpy()
    marks = np.zeros(bound, dtype=bool)
    marks[given] = True
    unique = marks.nonzero()[0]
    rank = np.empty(bound, dtype=np.int32)
    rank[unique] = np.arange(unique.size, dtype=np.int32)
    return torch.from_numpy(unique), torch.from_numpy(rank.take(given))


def _by_sort(keys: Tensor, position_bits: int) -> tuple[Tensor, Tensor]:
    """Pack each key and its position into one number and sort the numbers.

    numpy's vectorized sort is several times faster than any argsort, and so brings the positions along."""
    packed = keys.numpy()
    packed <<= position_bits
    packed |= np.arange(packed.size)
    packed.sort()
    position = packed & ((1 << position_bits) - 1)
    packed >>= position_bits
    is_first = np.zeros(packed.size, dtype=bool)
    np.not_equal(packed[1:], packed[:-1], out=is_first[1:])
    # torch adds up and scatters in half of numpy's time; numpy selects in a fraction of torch's.
    rank = torch.cumsum(torch.from_numpy(is_first), 0, dtype=torch.int32)
    inverse = torch.empty_like(rank).scatter_(0, torch.from_numpy(position), rank)
    is_first[0] = True
    return torch.from_numpy(packed.compress(is_first)), inverse

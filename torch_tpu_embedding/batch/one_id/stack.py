"""One stack of features with one id a sample: its ids sorted table by table, written into the buffer.

The result is that of `requests.py` and `buffers.py`, which are the reference. What does not depend on the
ids is found once.

Letters: B batch, F features of the stack, T its tables, N = F · B lookups, U unique rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...config.resolved import Resolved
from ..buffer_parts import IntParts
from ..program_shape import StackOrder

_Array = NDArray[Any]
_WORD = 32


class Ranked:
    """The distinct records of a stack's batch and the way from each lookup to them.

    Args:
        ids: `[U]`, table after table, rising in each: the ids that occur.
        counts: `[T]`: how many of them each table has.
        lookups: `[N]` int64: the lookup of each entry of `rank`.
        rank: `[N]` int32: the positions in `ids`, rising.
    """

    def __init__(self, ids: _Array, counts: _Array, lookups: _Array, rank: torch.Tensor) -> None:
        self.ids = ids
        self.counts = counts
        self.lookups = lookups
        self.rank = rank


class OneIdStack:
    """The order of one stack's lookups, sorted by table.

    Args:
        order: of the stack; all its features are one-hot.
        size: B.
    """

    def __init__(self, resolved: Resolved, order: StackOrder, size: int) -> None:
        stack = order.stack
        tables = [resolved.features[span.feature_index].table_index for span in order.spans]
        runs = [
            [span for span, other in zip(order.spans, tables, strict=True) if other == table]
            for table in stack.table_indices
        ]
        spans = [span for run in runs for span in run]
        lengths = np.array([len(run) * size for run in runs])
        self.order = order
        features = [span.feature_index for span in spans]
        self._features = features if features != [*range(len(resolved.features))] else None
        """The features in the order of their tables; None if these are all, as they stand."""
        self._first = np.array(stack.first_records, dtype=np.int32)
        self._tables = np.arange(len(runs), dtype=np.int32)
        self._ends = lengths.cumsum()
        self._starts = self._ends - lengths
        self._bits = int(lengths.max() - 1).bit_length()
        largest = max(resolved.tables[table].vocabulary_size for table in stack.table_indices)
        fits = (largest - 1).bit_length() + self._bits <= _WORD
        self._dtype: type[np.unsignedinteger[Any]] = np.uint32 if fits else np.uint64
        self._are_even = len({*lengths.tolist()}) == 1
        self._shape = (len(runs), -1) if self._are_even else (-1,)
        numbers = [np.arange(length, dtype=self._dtype) for length in lengths]
        self._numbers = numbers[0] if self._are_even else np.concatenate(numbers)
        """The number of each id among those of its table, as often as tables have other ones."""
        self._shifts = self._starts[:, None] if self._are_even else np.repeat(self._starts, lengths)
        """Where each id's table begins."""
        first = np.repeat(np.array([span.first for span in spans]), size)
        moved = first + np.tile(np.arange(size), len(spans))
        self._moved = moved if (moved != np.arange(moved.size)).any() else None
        """`[N]`: the lookup of each id in the order of tables; None if that is the order of lookups."""
        self._keys = np.empty(moved.size, dtype=self._dtype)
        self._lookups = np.empty(moved.size, dtype=np.int64)
        self._rank = torch.empty(moved.size, dtype=torch.int32, device="cpu")

    def rank(self, ids: _Array) -> Ranked:
        """Sort the ids of a batch, and number those that are distinct.

        Args:
            ids: `[F of all stacks, B]` int64, each in [0, V).

        Returns:
            What `write` needs; it shares memory with the next call's.
        """
        mine = ids if self._features is None else ids[self._features]
        keys = self._keys.reshape(self._shape)
        np.copyto(keys, mine.reshape(self._shape), casting="unsafe")
        keys <<= self._bits
        keys |= self._numbers
        if self._are_even:
            keys.sort(axis=1)
        else:
            for start, end in zip(self._starts, self._ends, strict=True):
                keys[start:end].sort()
        lookups = self._lookups
        np.copyto(lookups, self._keys, casting="unsafe")
        lookups &= (1 << self._bits) - 1
        by_table = lookups.reshape(self._shape)
        by_table += self._shifts
        self._keys >>= self._bits
        is_first = np.empty(self._keys.size, dtype=bool)
        np.not_equal(self._keys[1:], self._keys[:-1], out=is_first[1:])
        is_first[self._starts] = True
        is_first[0] = False  # ranks begin at 0
        # Sums of int32 take torch a third of the time that sums of bool to int32 take it or numpy.
        rank = self._rank.copy_(torch.from_numpy(is_first))
        torch.cumsum(rank, 0, out=rank)
        is_first[0] = True
        counts = rank.numpy()[self._ends - 1] + 1
        counts[1:] -= counts[:-1].copy()
        if self._moved is not None:
            lookups = self._moved.take(lookups)
        return Ranked(self._keys.compress(is_first), counts, lookups, rank)

    def write(self, ranked: Ranked, parts: IntParts[_Array]) -> _Array:
        """Write the stack's part of the int32 buffer.

        Returns:
            `[U]` int32: the distinct records, rising; a view of the buffer.
        """
        unique = ranked.ids.size
        records = parts.record[:unique]
        np.add(ranked.ids, np.repeat(self._first, ranked.counts), out=records, casting="unsafe")
        parts.record[unique:] = self.order.stack.padding_record
        if parts.table.size:
            parts.table[:unique] = np.repeat(self._tables, ranked.counts)
            parts.table[unique:] = 0
        torch.from_numpy(parts.to_one_hot).scatter_(
            0, torch.from_numpy(ranked.lookups), ranked.rank
        )
        return records

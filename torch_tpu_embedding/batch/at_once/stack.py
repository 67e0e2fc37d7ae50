"""One stack of features whose bags have one length each: its distinct records, written into the buffer.

The result is that of `requests.py` and `buffers.py`, which are the reference.

Letters: B batch, T tables of the stack, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...config.resolved import Resolved
from ..buffer_parts import IntParts
from ..dedup import Ranks, are_dense
from ..program_shape import StackOrder
from .keys import KeySort, fits
from .large import LargeTables
from .marks import Marks
from .region import Found, Region, lengths_of, regions

_Array = NDArray[Any]
_ENOUGH = 1 << 14
"""The lookups from which on it pays to mark the ids of dense tables apart from the sort of all others."""


class _Source(Protocol):
    """A way to find the distinct ids of some tables."""

    def find(self, parts: Sequence[_Array], matrix: _Array | None, before: _Array | None) -> Found:
        """The distinct ids of a batch.

        Args:
            parts: the ids of each feature, bag after bag.
            matrix: `[F of all stacks, B]`, in place of `parts`, where all features are one-hot.
            before: `[T]`: how many ids of tables not in here come before those of each table; None if
                there are no other tables.
        """

    def write(self, rows: _Array, starts: _Array) -> None:
        """Write the positions of the ids that `find` found last.

        Args:
            rows: an item for each lookup of the stack.
            starts: `[T]`: the position of each table's first id.
        """


class OneLengthStack:
    """Finds the records of one stack's batches.

    The ids of its tables are marked where there are few rows for them, sorted by keys where they fit into
    one, and else left to `dedup.py`, one table after another.

    Args:
        order: of the stack, whose features are one-hot or of fixed length.
        size: B.
        ranks: of the batcher's thread.
    """

    def __init__(self, resolved: Resolved, order: StackOrder, size: int, ranks: Ranks) -> None:
        stack = order.stack
        self.num_one_hot = order.num_one_hot
        self.num_lookups = order.num_one_hot + order.num_fixed_length
        self.regions = regions(order, size)
        self._padding_record = stack.padding_record
        self._ranks = ranks
        self._first = np.array(stack.first_records, dtype=np.int32)
        self._tables = np.arange(len(self._first), dtype=np.int32)
        runs = [
            [each for each in self.regions if resolved.features[each.feature].table_index == table]
            for table in stack.table_indices
        ]
        rows = [resolved.tables[table].vocabulary_size for table in stack.table_indices]
        self._sources = _sources(runs, rows, self.num_lookups, ranks)
        self._found: list[Found] = []
        self._counts = np.zeros(len(runs), dtype=np.int64)

    def find(self, parts: Sequence[_Array], matrix: _Array | None) -> int:
        """Find the distinct records of a batch; gives their number, U.

        Args:
            parts: the ids of each feature, bag after bag.
            matrix: `[F of all stacks, B]`, the ids of all features, where all are one-hot.
        """
        if len(self._sources) == 1:
            found = self._sources[0][0].find(parts, matrix, None)
            self._found, self._counts = [found], found.counts
            return found.ids.size
        self._counts = np.zeros(len(self._tables), dtype=np.int64)
        self._found = []
        for source, tables in self._sources:
            found = source.find(parts, matrix, self._counts.cumsum()[tables])
            self._counts[tables] = found.counts
            self._found.append(found)
        return int(self._counts.sum())

    def write(self, parts: IntParts[_Array], rows: _Array) -> _Array:
        """Write the stack's part of the int32 buffer, of the batch that `find` was given last.

        Args:
            rows: `to_one_hot` and `to_fixed_length` as one.

        Returns:
            `[U]` int32: the distinct records, rising; a view of the buffer.
        """
        ends = self._counts.cumsum()
        starts, unique = ends - self._counts, int(ends[-1])
        records = parts.record[:unique]
        for (source, tables), found in zip(self._sources, self._found, strict=True):
            if len(self._sources) == 1:
                first = np.repeat(self._first, found.counts)
                np.add(found.ids, first, out=records, casting="unsafe")
                source.write(rows, starts)
                break
            first = np.repeat(self._first[tables], found.counts)
            _spread(found.ids + first, found.counts, tables, starts, records)
            source.write(rows, starts[tables])
        self._found = []
        parts.record[unique:] = self._padding_record
        if parts.table.size:
            parts.table[:unique] = np.repeat(self._tables, self._counts)
            parts.table[unique:] = 0
        return records


def _sources(
    runs: list[list[Region]], rows: list[int], num_lookups: int, ranks: Ranks
) -> list[tuple[_Source, _Array]]:
    """The ways in which the ids of a stack's tables are found, with the numbers of the tables of each."""
    lengths = lengths_of(runs).tolist()
    dense = [*map(are_dense, lengths, rows)]
    if sum(length for length, is_dense in zip(lengths, dense, strict=True) if is_dense) < _ENOUGH:
        dense = [False] * len(runs)
    marked = [n for n, is_dense in enumerate(dense) if is_dense]
    others = [n for n, is_dense in enumerate(dense) if not is_dense]
    keyed = [n for n in others if fits(rows[n], runs[n])]
    large = [n for n in others if n not in keyed]
    found: list[tuple[_Source, _Array]] = []
    if marked:
        source: _Source = Marks([runs[n] for n in marked], [rows[n] for n in marked])
        found.append((source, np.array(marked)))
    if large:
        source = LargeTables([runs[n] for n in large], [rows[n] for n in large], ranks)
        found.append((source, np.array(large)))
    if keyed:  # last, for its ranks begin behind the ids that the others have found
        found.append((KeySort([runs[n] for n in keyed], num_lookups), np.array(keyed)))
    return found


def _spread(records: _Array, counts: _Array, tables: _Array, starts: _Array, out: _Array) -> None:
    """Copy the records of some tables to where those of each table belong.

    Args:
        records: of the tables, one after another. counts: how many of them each table has.
        tables: their numbers, rising. starts: per table of the stack, where its records begin in `out`.
    """
    ends = counts.cumsum()
    breaks = (np.diff(tables) != 1).nonzero()[0] + 1
    begin = 0
    for first, end in pairwise([0, *breaks.tolist(), len(tables)]):
        stop = int(ends[end - 1])
        start = int(starts[tables[first]])
        out[start : start + stop - begin] = records[begin:stop]
        begin = stop

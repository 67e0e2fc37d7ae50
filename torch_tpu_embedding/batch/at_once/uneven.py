"""Batches of features of which some have bags of any number of ids, or are sequences: their distinct
records and all numbers, written into the buffers.

The result is that of `requests.py` and `buffers.py`, which are the reference. They give a sequence a lookup
for each of its positions; here only ids are looked at.

Letters: B batch, H ids of a bag of fixed length, L max_sequence_length, N lookups, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...config.resolved import Resolved
from ...inputs.at_once.bags import AtOnceBags
from ...inputs.at_once.uneven import gains_of
from ...runtime.phases import phase
from ..buffer_parts import FloatParts, IntParts
from ..buffers import fill_fixed_length
from ..dedup import Ranks, Run
from ..program_shape import FeatureSpan, StackOrder, StackShape
from .packed import Fit, Packed

_Array = NDArray[Any]


class UnevenBatch:
    """All stacks of batches of one form.

    Args:
        orders: of the stacks.
        like: a batch of that form.
        ranks: of the batcher's thread.
    """

    def __init__(
        self,
        resolved: Resolved,
        orders: tuple[StackOrder, ...],
        like: AtOnceBags,
        ranks: Ranks,
    ) -> None:
        self._stacks = [UnevenStack(resolved, order, like.size, ranks) for order in orders]

    def pack(self, bags: AtOnceBags, fit: Fit) -> Packed:
        """Deduplicate a batch and write its numbers; see `packed.py`."""
        unique = [stack.find(bags) for stack in self._stacks]
        ragged = [stack.num_ragged(bags) for stack in self._stacks]
        counted = zip(unique, ragged, strict=True)
        shapes = tuple(fit(number, *counts) for number, counts in enumerate(counted))
        with phase("buffers"):
            ints = np.empty(sum(sum(shape.int_lengths) for shape in shapes), dtype=np.int32)
            floats = np.empty(sum(sum(shape.float_lengths) for shape in shapes), dtype=np.float32)
            records, at, at_float = [], 0, 0
            for stack, shape in zip(self._stacks, shapes, strict=True):
                numbers, at = _cut(ints, at, shape.int_lengths)
                gains, at_float = _cut(floats, at_float, shape.float_lengths)
                records.append(stack.write(bags, shape, IntParts(*numbers)))
                stack.write_gains(bags, FloatParts(*gains))
        return Packed(
            shapes,
            torch.from_numpy(ints),
            torch.from_numpy(floats),
            [torch.from_numpy(each) for each in records],
            None,
        )


class UnevenStack:
    """Finds and writes the numbers of one stack's batches.

    Args:
        order: of the stack. size: B. ranks: of the batcher's thread.
    """

    def __init__(self, resolved: Resolved, order: StackOrder, size: int, ranks: Ranks) -> None:
        stack = order.stack
        self._order = order
        self._size = size
        self._ranks = ranks
        self._combiners = resolved.combiners
        self._sequences = resolved.sequence_lengths
        self._first = stack.first_records
        self._rows = [resolved.tables[table].vocabulary_size for table in stack.table_indices]
        members = [span.feature_index for span in order.spans]
        self._features = [
            [each for each in members if resolved.features[each].table_index == table]
            for table in stack.table_indices
        ]
        self._bounds = np.array([*self._first, stack.num_records + 1])
        """The first record of each table, and one more than the padding record."""
        self._bags = np.arange(order.num_bags, dtype=np.int32)
        self._keys = np.empty(0, dtype=np.int64)
        self._numbers = np.empty(0, dtype=np.int64)
        self._counts: dict[int, _Array] = {}
        self._unique = np.empty(0, dtype=np.int32)
        self._inverse: dict[int, _Array] = {}

    def find(self, bags: AtOnceBags) -> int:
        """Find the distinct records of a batch; gives their number, U."""
        parts = {n: self._ids(bags, n) for of_table in self._features for n in of_table}
        total = sum(part.size for part in parts.values())
        if self._keys.size < total:
            self._keys = np.empty(total + total // 8, dtype=np.int64)
        keys, at, runs = self._keys[:total], 0, []
        places = {}
        for first, rows, features in zip(self._first, self._rows, self._features, strict=True):
            start = at
            for feature in features:
                part, at = parts[feature], at + parts[feature].size
                places[feature] = slice(at - part.size, at)
                np.add(part, first, out=keys[places[feature]], dtype=np.int64)
            if at > start:
                runs.append(Run(slice(start, at), first, rows))
        bound = self._order.stack.num_records + 1
        self._unique, inverse = self._ranks.unique_in_runs(keys, bound, _joined(runs))
        self._inverse = {feature: inverse[place] for feature, place in places.items()}
        return self._unique.size

    def _ids(self, bags: AtOnceBags, feature: int) -> _Array:
        """The ids of a feature that are looked up: the first L of each sample of a sequence."""
        part, counts, most = bags.parts[feature], bags.counts[feature], self._sequences[feature]
        if counts is None or not most:
            return part
        if not part.size or counts.max() <= most:
            self._counts[feature] = counts
            return part
        kept = np.minimum(counts, most)
        self._counts[feature] = kept
        # Where the ids of each sample begin, before and after those beyond L are left out.
        begin, begins = counts.cumsum() - counts, kept.cumsum() - kept
        places = np.repeat(begin - begins, kept) + self._numbers_to(int(kept.sum()))
        return part.take(places)

    def _numbers_to(self, count: int) -> _Array:
        """0 … count - 1."""
        if self._numbers.size < count:
            self._numbers = np.arange(count + count // 8)
        return self._numbers[:count]

    def num_ragged(self, bags: AtOnceBags) -> int:
        """The number of ids of the ragged features of a batch."""
        return sum(bags.parts[span.feature_index].size for span in self._order.ragged)

    def write(self, bags: AtOnceBags, shape: StackShape, parts: IntParts[_Array]) -> _Array:
        """Write the stack's part of the int32 buffer, of the batch that `find` was given last.

        Returns:
            `[U]` int32: the distinct records, rising; a view of the buffer.
        """
        order, unique = self._order, self._unique
        records = parts.record[: unique.size]
        records[...] = unique
        parts.record[unique.size :] = order.stack.padding_record
        if parts.table.size:
            ends = np.searchsorted(unique, self._bounds)
            tables = np.arange(len(self._first), dtype=np.int32)
            parts.table[: unique.size] = np.repeat(tables, ends[1:] - ends[:-1])
            parts.table[unique.size :] = 0
        for span in order.one_hot:
            self._write_one_hot(span, parts.to_one_hot[span.first :][: span.num_lookups])
        values = {
            each.feature_index: self._inverse[each.feature_index] for each in order.fixed_length
        }
        fill_fixed_length(order, parts.to_fixed_length, values)
        at = 0
        for span in order.ragged:
            inverse, counts = self._inverse[span.feature_index], bags.counts[span.feature_index]
            assert counts is not None
            at, start = at + inverse.size, at
            parts.to_ragged[start:at] = inverse
            parts.bag[start:at] = np.repeat(self._bags[span.first :][: span.count], counts)
        parts.to_ragged[at:] = shape.num_unique - 1
        parts.bag[at:] = max(order.num_bags - 1, 0)
        self._inverse = {}
        return records

    def _write_one_hot(self, span: FeatureSpan, out: _Array) -> None:
        inverse, most = self._inverse[span.feature_index], self._sequences[span.feature_index]
        if not most:
            out[...] = inverse
            return
        out.fill(self._unique.size)
        counts = self._counts[span.feature_index]
        ends = counts.cumsum()
        # A sample begins after all positions of the samples before it, the empty ones included.
        shift = np.arange(0, self._size * most, most) - (ends - counts)
        target = np.repeat(shift, counts)
        target += self._numbers_to(target.size)
        # torch scatters in half of numpy's time
        torch.from_numpy(out).scatter_(0, torch.from_numpy(target), torch.from_numpy(inverse))

    def write_gains(self, bags: AtOnceBags, parts: FloatParts[_Array]) -> None:
        """Write the stack's part of the float32 buffer."""
        order = self._order
        values = {each.feature_index: self._gains(bags, each) for each in order.fixed_length}
        fill_fixed_length(order, parts.fixed_length_gain, values)
        at = 0
        for span in order.ragged:
            at, start = at + bags.parts[span.feature_index].size, at
            if self._combiners[span.feature_index] == "sum":
                parts.ragged_gain[start:at] = 1
            else:
                parts.ragged_gain[start:at] = self._gains(bags, span)
        parts.ragged_gain[at:] = 0

    def _gains(self, bags: AtOnceBags, span: FeatureSpan) -> _Array:
        counts = bags.counts[span.feature_index]
        assert counts is not None
        return gains_of(self._combiners[span.feature_index], counts)


def _joined(runs: Sequence[Run]) -> list[Run]:
    """Runs of neighbouring tables that are to be marked, as one."""
    found: list[Run] = []
    for run in runs:
        last = found[-1] if found else None
        if last is not None and all(each.is_dense for each in (last, run)):
            gap = run.first - last.first
            both = Run(slice(last.part.start, run.part.stop), last.first, gap + run.rows)
            if both.is_dense:
                found[-1] = both
                continue
        found.append(run)
    return found


def _cut(array: _Array, at: int, lengths: Sequence[int]) -> tuple[list[_Array], int]:
    """Consecutive pieces of an array from `at` on, and their end."""
    ends = [*accumulate(lengths, initial=at)]
    return [array[start:end] for start, end in pairwise(ends)], ends[-1]

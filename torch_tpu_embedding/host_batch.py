"""One batch on the host: per stack its unique records, the way back from each id, and the gains.

All that depends on the data happens here; what leaves is one int32 and one float32 buffer of sizes that
rarely change, so the device runs the same program at every step.

Letters: B batch, N ids, U unique rows, D dim.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .config import Resolved
from .features import NO_ID, Bags
from .layout import StackLayout
from .occurrences import Chunk, make_chunks, tables_of

logger = logging.getLogger(__name__)

_LADDER = 2**0.25  # ratio of neighbouring bucket sizes
# Room over the batch that makes a bucket grow: an eighth, and for small batches four standard deviations
# of a count that scatters like a Poisson one, lest chance alone make it grow again.
_SHARE = 0.125
_DEVIATIONS = 4.0
_ROUND = 8


class Bucket:
    """A padded size that only grows, in geometric steps; each growth means one compile.

    >>> bucket = Bucket("ids of table 'user'")
    >>> bucket.fit(100), bucket.fit(90), bucket.fit(140), bucket.fit(200)
    (152, 152, 152, 304)
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.size = 0

    def fit(self, count: int, limit: int | None = None) -> int:
        """The padded size for `count` items, of which there can never be more than `limit`."""
        if count > self.size:
            wanted = count + max(_SHARE * count, _DEVIATIONS * math.sqrt(count))
            size = float(_ROUND)
            while size < wanted:
                size *= _LADDER
            grown = -(-int(size) // _ROUND) * _ROUND
            if limit is not None:
                grown = max(min(grown, -(-limit // _ROUND) * _ROUND), count)
            level = logging.INFO if self.size else logging.DEBUG
            logger.log(level, "bucket for %s grows from %d to %d", self.what, self.size, grown)
            self.size = grown
        return self.size


@dataclass(frozen=True)
class Segment:
    """Where one feature's activations lie in the `[num_direct, D]` or `[num_bags, D]` of its stack."""

    feature_index: int
    direct: bool
    first: int
    count: int
    shape: tuple[int, ...]
    """Of the activations, without D."""


@dataclass(frozen=True)
class StackPlan:
    """The order of a stack's features, the direct ones first, for one pattern of input kinds."""

    stack: StackLayout
    segments: tuple[Segment, ...]
    num_direct: int
    num_bags: int

    @cached_property
    def direct(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.direct)

    @cached_property
    def pooled(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if not segment.direct)


@dataclass(frozen=True)
class StackSizes:
    """A plan with its padded sizes: everything that decides the program of this stack."""

    plan: StackPlan
    num_unique: int
    """U, at least one more than the unique records: the last place holds the padding record."""
    num_pooled: int
    """N of the pooled features; 0 if there are none."""

    @property
    def has_groups(self) -> bool:
        return len(self.plan.stack.table_indices) > 1

    @property
    def int_parts(self) -> tuple[int, ...]:
        """Lengths of: records, tables of the records, number of valid records, inverse of the direct
        places, inverse of the pooled ids, bags of the pooled ids."""
        groups = self.num_unique if self.has_groups else 0
        return (
            self.num_unique,
            groups,
            1,
            self.plan.num_direct,
            self.num_pooled,
            self.num_pooled,
        )


@dataclass(frozen=True)
class HostBatch:
    """What one enqueue sends to the device."""

    sizes: tuple[StackSizes, ...]
    ints: Tensor
    floats: Tensor
    chunks: tuple[tuple[Chunk, ...], ...]
    """Per stack, the occurrences in order, if its optimizer steps once for each of them."""


def make_plans(
    resolved: Resolved,
    stacks: tuple[StackLayout, ...],
    direct: tuple[bool, ...],
    shapes: tuple[tuple[int, ...], ...],
) -> tuple[StackPlan, ...]:
    """Give each feature its place, given which are direct and the shapes of their activations."""
    plans = []
    for stack in stacks:
        members = [
            (index, feature)
            for index, feature in enumerate(resolved.features)
            if feature.table_index in stack.table_indices
        ]
        segments: list[Segment] = []
        ends = {True: 0, False: 0}
        for index, _ in sorted(members, key=lambda member: not direct[member[0]]):
            count, kind = math.prod(shapes[index]), direct[index]
            segments.append(Segment(index, kind, ends[kind], count, shapes[index]))
            ends[kind] += count
        plans.append(StackPlan(stack, tuple(segments), ends[True], ends[False]))
    return tuple(plans)


_Kinds = tuple[tuple[bool, ...], tuple[tuple[int, ...], ...]]


class _Padding:
    """The padded sizes of one stack."""

    def __init__(self, what: str) -> None:
        self.unique = Bucket(f"unique rows of {what}")
        self.pooled = Bucket(f"ids of {what}")
        self.chunks: list[int] = []
        """Of the chunks of occurrences (`occurrences.py`)."""


class Batcher:
    """Turns the bags of all features into host batches; owns the plans and the buckets."""

    def __init__(self, resolved: Resolved, stacks: tuple[StackLayout, ...]) -> None:
        self._resolved = resolved
        self._stacks = stacks
        self._plans: dict[_Kinds, tuple[StackPlan, ...]] = {}
        names = [
            ", ".join(repr(resolved.tables[t].name) for t in stack.table_indices)
            for stack in stacks
        ]
        # Training and inference are different programs anyway: neither shall make the other's grow.
        self._padding = {
            training: [_Padding(f"{name} in {kind}") for name in names]
            for training, kind in ((True, "training"), (False, "inference"))
        }

    def make(self, bags: list[Bags], training: bool = True) -> HostBatch:
        """Deduplicate and pad one batch; `bags` in feature order."""
        kinds = tuple(each.bag is None for each in bags), tuple(each.shape for each in bags)
        if kinds not in self._plans:
            self._plans[kinds] = make_plans(self._resolved, self._stacks, *kinds)
        parts = [
            self._make_stack(plan, bags, padding, training)
            for plan, padding in zip(self._plans[kinds], self._padding[training], strict=True)
        ]
        sizes, ints, floats, chunks = zip(*parts, strict=True)
        return HostBatch(sizes, torch.cat(ints), torch.cat(floats), chunks)

    def _make_stack(
        self,
        plan: StackPlan,
        bags: list[Bags],
        padding: _Padding,
        training: bool,
    ) -> tuple[StackSizes, Tensor, Tensor, tuple[Chunk, ...]]:
        stack = plan.stack
        first = dict(zip(stack.table_indices, stack.first_records, strict=True))
        pieces = []
        for segment in plan.segments:
            ids = bags[segment.feature_index].ids
            offset = first[self._resolved.features[segment.feature_index].table_index]
            records = ids + offset
            if segment.direct:
                records = records.where(ids != NO_ID, stack.padding_record)
            pieces.append(records.to(torch.int32))
        unique, inverse = torch.unique(torch.cat(pieces), return_inverse=True)
        num_valid = len(unique)
        if num_valid and int(unique[-1]) == stack.padding_record:
            num_valid -= 1
        num_ids = len(inverse)
        num_pooled = num_ids - plan.num_direct
        most = stack.num_records if plan.num_bags else min(stack.num_records, plan.num_direct)
        sizes = StackSizes(
            plan,
            padding.unique.fit(num_valid + 1, limit=most + 1),
            padding.pooled.fit(num_pooled) if plan.num_bags else 0,
        )
        ints = torch.empty(sum(sizes.int_parts), dtype=torch.int32)
        records, groups, valid, to_direct, to_pooled, bag = torch.split(ints, [*sizes.int_parts])
        records[: len(unique)] = unique
        records[len(unique) :] = stack.padding_record
        if sizes.has_groups:
            groups[:num_valid] = tables_of(stack, unique[:num_valid])
            groups[num_valid:] = 0
        valid[0] = num_valid
        to_direct[:] = inverse[: plan.num_direct]
        to_pooled[:num_pooled] = inverse[plan.num_direct :]
        to_pooled[num_pooled:] = sizes.num_unique - 1
        gain = torch.zeros(sizes.num_pooled, dtype=torch.float32)
        at = 0
        for segment in plan.pooled:
            source = bags[segment.feature_index]
            assert source.bag is not None
            assert source.gain is not None
            end = at + len(source.ids)
            bag[at:end] = source.bag + segment.first
            gain[at:end] = source.gain
            at = end
        bag[num_pooled:] = max(plan.num_bags - 1, 0)
        chunks: tuple[Chunk, ...] = ()
        if training and stack.rule is not None and stack.rule.steps_per_occurrence:
            order = _batch_order(plan, [len(piece) for piece in pieces])
            chunks = make_chunks(stack, unique[:num_valid], inverse, order, padding.chunks)
        return sizes, ints, gain, chunks


def _batch_order(plan: StackPlan, lengths: list[int]) -> Tensor:
    """The places of a batch, which lie segment after segment, in the order of the features."""
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    numbers = sorted(range(len(lengths)), key=lambda number: plan.segments[number].feature_index)
    return torch.cat([torch.arange(ends[n] - lengths[n], ends[n]) for n in numbers])

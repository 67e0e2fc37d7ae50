"""The order of features in a stack, and the sizes that decide the stack's program.

Letters: B batch, N ids, U unique rows, D dim, G devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from .config import Resolved
from .layout import StackLayout

_SMALL_BYTES = 1 << 16
"""Of a feature's activations. To trace a gather and a scatter takes about as long as XLA's CPU device takes
to copy this much there and back."""


@dataclass(frozen=True)
class Segment:
    """Where one feature's activations lie in the `[num_direct, D]` or `[num_bags, D]` of its stack."""

    feature_index: int
    direct: bool
    first: int
    count: int
    shape: tuple[int, ...]
    """Of the activations on one device, without D."""


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
    def runs(self) -> tuple[tuple[Segment, ...], ...]:
        """The direct segments, in order: large ones alone, small ones together with their neighbours.

        What is looked up together is one gather and one scatter, which the features are cut from and
        joined into: a copy, but fewer operators to trace and to launch.
        """
        largest = _SMALL_BYTES // (4 * self.stack.dim)
        numbered = groupby(
            enumerate(self.direct), lambda pair: -1 if pair[1].count <= largest else pair[0]
        )
        return tuple(tuple(segment for _, segment in run) for _, run in numbered)

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
    num_devices: int = 1
    """G: whose rows are exchanged."""
    block: int = 0
    """Rows that two devices exchange, the last always padding; 0 if G is 1."""

    @property
    def has_groups(self) -> bool:
        return len(self.plan.stack.table_indices) > 1

    @property
    def num_slots(self) -> int:
        """Places in what is exchanged, 0 if nothing is."""
        return self.num_devices * self.block

    @property
    def int_parts(self) -> tuple[int, ...]:
        """Lengths of: records, tables of the records, the record served in each slot, the row of each
        direct place, the row of each pooled id, bags of the pooled ids."""
        groups = self.num_unique if self.has_groups else 0
        return (
            self.num_unique,
            groups,
            self.num_slots,
            self.plan.num_direct,
            self.num_pooled,
            self.num_pooled,
        )


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

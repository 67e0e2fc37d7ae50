"""The order of features in a stack, and the sizes that decide the stack's program.

Letters: B batch, H length of a bag, N ids, U unique rows, D dim, G devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

from ..config.resolved import Resolved
from ..inputs.bags import Bags
from ..tables.layout import StackLayout
from .buffer_parts import FloatParts, IntParts

Kind = Literal["direct", "fixed", "ragged"]
_Runs = tuple[tuple["FeatureSpan", ...], ...]

_SMALL_BYTES = 1 << 16
"""Of a feature's rows. To trace a gather and a scatter takes about as long as XLA's CPU device takes
to copy this much there and back."""


@dataclass(frozen=True)
class Form:
    """What of one feature's batch on one device decides where its ids go."""

    direct: bool
    """At most one id for each activation, with no gain."""
    shape: tuple[int, ...]
    """Of the activations, without D."""
    length: int = 0
    """H, if each bag of a pooled feature has H places for ids, some of which may be empty; 0 if bags have
    any number of ids, or if the feature is direct."""

    @property
    def kind(self) -> Kind:
        return "direct" if self.direct else "fixed" if self.length else "ragged"


def form_of(bags: Bags) -> Form:
    """Of one feature's batch on one device."""
    return Form(bags.gain is None, bags.shape, bags.length)


@dataclass(frozen=True)
class FeatureSpan:
    """Where one feature lies in its stack: its first place among those of all direct, or of all fixed
    features, or its first bag among those of all ragged ones."""

    feature_index: int
    form: Form
    first: int

    @property
    def count(self) -> int:
        """Of its activations."""
        return math.prod(self.form.shape)

    @property
    def places(self) -> int:
        """For ids, where that does not depend on the batch."""
        return self.count * max(self.form.length, 1)


@dataclass(frozen=True)
class StackOrder:
    """The order of a stack's features for one pattern of forms: direct, fixed (bags of one length), ragged
    (bags of any length)."""

    stack: StackLayout
    spans: tuple[FeatureSpan, ...]

    @cached_property
    def direct(self) -> tuple[FeatureSpan, ...]:
        return self._of("direct")

    @cached_property
    def fixed(self) -> tuple[FeatureSpan, ...]:
        return self._of("fixed")

    @cached_property
    def ragged(self) -> tuple[FeatureSpan, ...]:
        return self._of("ragged")

    @cached_property
    def num_one_hot(self) -> int:
        return sum(span.num_lookups for span in self.direct)

    @cached_property
    def num_fixed_length(self) -> int:
        return sum(span.num_lookups for span in self.fixed)

    @cached_property
    def num_bags(self) -> int:
        """Of the ragged spans."""
        return sum(span.count for span in self.ragged)

    @cached_property
    def fused_one_hot(self) -> _Runs:
        """The direct spans, in order: large ones alone, small ones together with their neighbours.

        What is looked up together is one gather and one scatter, which the features are cut from and
        joined into: a copy, but fewer operators to trace and to launch.
        """
        return self._runs(self.direct)

    @cached_property
    def fused_fixed_length(self) -> _Runs:
        """The fixed spans likewise; the bags of a run are of one length."""
        return self._runs(self.fixed)

    def _of(self, kind: Kind) -> tuple[FeatureSpan, ...]:
        return tuple(span for span in self.spans if span.form.kind == kind)

    def _runs(self, spans: tuple[FeatureSpan, ...]) -> _Runs:
        largest = _SMALL_BYTES // (4 * self.stack.dim)

        def key(numbered: tuple[int, FeatureSpan]) -> tuple[int, ...]:
            number, span = numbered
            return (number,) if span.num_lookups > largest else (-1, span.form.length)

        runs = groupby(enumerate(spans), key)
        return tuple(tuple(span for _, span in run) for _, run in runs)


@dataclass(frozen=True)
class StackShape:
    """A plan with its padded sizes: everything that decides the program of this stack."""

    plan: StackOrder
    num_unique: int
    """U, at least one more than the unique records: the last place holds the padding record."""
    num_ragged: int
    """N of the ragged features; 0 if there are none."""
    num_devices: int = 1
    """G: whose rows are exchanged."""
    block: int = 0
    """Rows that two devices exchange, the last always padding; 0 if G is 1."""

    @property
    def has_several_tables(self) -> bool:
        return len(self.order.stack.table_indices) > 1

    @property
    def num_positions(self) -> int:
        """Places in what is exchanged, 0 if nothing is."""
        return self.num_devices * self.positions_per_device

    @property
    def int_lengths(self) -> IntParts[int]:
        """How long the parts of this stack are in the int32 buffer of a batch."""
        return IntParts(
            record=self.num_unique,
            table=self.num_unique if self.has_several_tables else 0,
            served=self.num_positions,
            to_one_hot=self.plan.num_one_hot,
            to_fixed_length=self.plan.num_fixed_length,
            to_ragged=self.num_ragged,
            bag=self.num_ragged,
        )

    @property
    def float_lengths(self) -> FloatParts[int]:
        """How long the parts of this stack are in the float32 buffer of a batch."""
        return FloatParts(fixed_length_gain=self.plan.num_fixed_length, ragged_gain=self.num_ragged)


def order_stacks(
    resolved: Resolved, stacks: tuple[StackLayout, ...], forms: tuple[Form, ...]
) -> tuple[StackOrder, ...]:
    """Give each feature its place in its stack, given their forms in feature order."""
    plans = []
    for stack in stacks:
        members = [
            index
            for index, feature in enumerate(resolved.features)
            if feature.table_index in stack.table_indices
        ]
        spans: list[FeatureSpan] = []
        ends: dict[Kind, int] = {}
        for index in sorted(members, key=lambda member: _rank(forms[member])):
            form = forms[index]
            span = FeatureSpan(index, form, ends.get(form.kind, 0))
            spans.append(span)
            ends[form.kind] = span.first + span.num_lookups
        plans.append(StackOrder(stack, tuple(spans)))
    return tuple(plans)


def _rank(form: Form) -> tuple[int, ...]:
    """Direct, fixed (those of one length together), ragged."""
    return (1, form.length) if form.length else (0,) if form.direct else (2,)

"""The program shape of a stack: the order of its features and the padded sizes that decide its program.

Letters: B batch, H ids of a bag of fixed length, N lookups, U unique rows, D dim, G devices of all.
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

Kind = Literal["one_hot", "fixed_length", "ragged"]
_Fused = tuple[tuple["FeatureSpan", ...], ...]

_SMALL_BYTES = 1 << 16
"""A feature with fewer bytes of rows is fused with its neighbours: to trace a gather and a scatter takes
about as long as XLA's CPU device takes to copy this much there and back."""


@dataclass(frozen=True)
class Form:
    """The properties of one feature's batch on one device that decide where its lookups go."""

    one_hot: bool
    """At most one id for each activation, with no gain."""
    shape: tuple[int, ...]
    """The shape of the activations without D."""
    length: int = 0
    """H, if each bag has H positions for ids, some of which may be empty; 0 if bags have any number of ids,
    or if the feature is one-hot."""

    @property
    def kind(self) -> Kind:
        return "one_hot" if self.one_hot else "fixed_length" if self.length else "ragged"


def form_of(bags: Bags) -> Form:
    """The form of one feature's batch on one device."""
    return Form(bags.gain is None, bags.shape, bags.length)


@dataclass(frozen=True)
class FeatureSpan:
    """Where the lookups of one feature lie in its stack."""

    feature_index: int
    form: Form
    first: int
    """The feature's first lookup among those of all one-hot, or of all fixed-length features of the stack;
    of a ragged feature its first bag among the bags of all ragged features."""

    @cached_property
    def count(self) -> int:
        """The number of activations."""
        return math.prod(self.form.shape)

    @cached_property
    def num_lookups(self) -> int:
        """The number of lookups, empty positions included, of a feature where it does not depend on the
        batch."""
        return self.count * max(self.form.length, 1)


@dataclass(frozen=True)
class StackOrder:
    """The features of a stack in the order of its program: one-hot, fixed-length (bags of H ids each),
    ragged."""

    stack: StackLayout
    spans: tuple[FeatureSpan, ...]

    @cached_property
    def one_hot(self) -> tuple[FeatureSpan, ...]:
        return self._of("one_hot")

    @cached_property
    def fixed_length(self) -> tuple[FeatureSpan, ...]:
        return self._of("fixed_length")

    @cached_property
    def ragged(self) -> tuple[FeatureSpan, ...]:
        return self._of("ragged")

    @cached_property
    def num_one_hot(self) -> int:
        """The number of lookups of all one-hot features."""
        return sum(span.num_lookups for span in self.one_hot)

    @cached_property
    def num_fixed_length(self) -> int:
        """The number of lookups of all fixed-length features, empty positions included."""
        return sum(span.num_lookups for span in self.fixed_length)

    @cached_property
    def num_bags(self) -> int:
        """The number of bags of all ragged features."""
        return sum(span.count for span in self.ragged)

    @cached_property
    def fused_one_hot(self) -> _Fused:
        """The one-hot spans in order, grouped: a large one alone, small ones with their neighbours.

        The spans of a group share one gather and one scatter. Their activations are split off the result,
        and their gradients joined: a copy, but fewer operators to trace and to launch.
        """
        return self._fused(self.one_hot)

    @cached_property
    def fused_fixed_length(self) -> _Fused:
        """The fixed-length spans in order, grouped in the same way; bags of a group have the same
        length."""
        return self._fused(self.fixed_length)

    def _of(self, kind: Kind) -> tuple[FeatureSpan, ...]:
        return tuple(span for span in self.spans if span.form.kind == kind)

    def _fused(self, spans: tuple[FeatureSpan, ...]) -> _Fused:
        largest = _SMALL_BYTES // (4 * self.stack.dim)

        def key(numbered: tuple[int, FeatureSpan]) -> tuple[int, ...]:
            number, span = numbered
            return (number,) if span.num_lookups > largest else (-1, span.form.length)

        return tuple(
            tuple(span for _, span in fused) for _, fused in groupby(enumerate(spans), key)
        )


@dataclass(frozen=True)
class StackShape:
    """The program shape of one stack: its order of features and its padded sizes."""

    order: StackOrder
    num_unique: int
    """U, at least one more than the unique records: the last one is the padding record."""
    num_ragged: int
    """N of the ragged features; 0 if there are none."""
    num_devices: int = 1
    """G, the devices whose rows are exchanged."""
    positions_per_device: int = 0
    """Positions in the exchange buffer for each device, the last of them always padding; 0 if G is 1."""

    @property
    def has_several_tables(self) -> bool:
        return len(self.order.stack.table_indices) > 1

    @property
    def num_positions(self) -> int:
        """Positions in the exchange buffer, G · positions_per_device; 0 if nothing is exchanged."""
        return self.num_devices * self.positions_per_device

    @cached_property
    def int_lengths(self) -> IntParts[int]:
        """The lengths of this stack's parts of the int32 buffer of a batch."""
        return IntParts(
            record=self.num_unique,
            table=self.num_unique if self.has_several_tables else 0,
            incoming=self.num_positions,
            to_one_hot=self.order.num_one_hot,
            to_fixed_length=self.order.num_fixed_length,
            to_ragged=self.num_ragged,
            bag=self.num_ragged,
        )

    @cached_property
    def float_lengths(self) -> FloatParts[int]:
        """The lengths of this stack's parts of the float32 buffer of a batch."""
        return FloatParts(
            fixed_length_gain=self.order.num_fixed_length, ragged_gain=self.num_ragged
        )


def order_stacks(
    resolved: Resolved, stacks: tuple[StackLayout, ...], forms: tuple[Form, ...]
) -> tuple[StackOrder, ...]:
    """Give each feature its span in its stack.

    Args:
        forms: one per feature, in feature order.
    """
    orders = []
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
        orders.append(StackOrder(stack, tuple(spans)))
    return tuple(orders)


def _rank(form: Form) -> tuple[int, ...]:
    """The key that sorts one-hot features first, then fixed-length ones by length, then ragged ones."""
    return (1, form.length) if form.length else (0,) if form.one_hot else (2,)

"""Where the lookups of features of one length lie among those of their stack.

Letters: B batch, H ids of a bag (1 for one-hot features), F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..program_shape import StackOrder

_Array = NDArray[Any]


@dataclass(frozen=True)
class Region:
    """The lookups of one feature: `[H, B]`, the first ids of all bags first."""

    feature: int
    """Its number among all features."""
    start: int
    """The first lookup."""
    stride: int
    """From the first ids of bags to the second: more than B where features are fused."""
    length: int
    """H."""
    size: int
    """B."""

    @property
    def count(self) -> int:
        """The number of lookups."""
        return self.length * self.size

    def of(self, lookups: _Array) -> _Array:
        """A view `[H, B]` of an array that has an item for each lookup of the stack."""
        step = lookups.itemsize
        shape, strides = (self.length, self.size), (self.stride * step, step)
        return as_strided(lookups[self.start :], shape, strides)

    def by_position(self, values: _Array) -> _Array:
        """Values of the lookups, which lie bag after bag, as `[H, B]`."""
        return values.reshape(self.size, self.length).T


class Found(NamedTuple):
    """The distinct ids of several tables."""

    ids: _Array
    """Table after table, rising in each; integers."""
    counts: _Array
    """How many of them each table has."""


def regions(order: StackOrder, size: int) -> list[Region]:
    """The regions of a stack's features, one-hot and then fixed-length ones, in the order of its spans.

    Args:
        size: B.
    """
    found = [Region(span.feature_index, span.first, size, 1, size) for span in order.one_hot]
    at = order.num_one_hot
    for fused in order.fused_fixed_length:
        length, stride = fused[0].form.length, size * len(fused)
        for number, span in enumerate(fused):
            found.append(Region(span.feature_index, at + number * size, stride, length, size))
        at += length * stride
    return found


def adjacent(run: Sequence[Region]) -> bool:
    """True if the lookups of several regions, one after another, have no other between them."""
    ends = [each.start + each.count for each in run]
    together = all(each.stride == each.size or each.length == 1 for each in run)
    return together and all(
        end == following.start for end, following in zip(ends, run[1:], strict=False)
    )


def lengths_of(runs: Sequence[Sequence[Region]]) -> NDArray[np.int64]:
    """The number of lookups of each table, given the regions of each."""
    return np.array([sum(each.count for each in run) for run in runs], dtype=np.int64)


def cut_by_region(items: _Array, found: Sequence[Region]) -> list[_Array]:
    """The items of each region `[H, B]`, which lie one region after another in `items`."""
    pieces, at = [], 0
    for each in found:
        pieces.append(items[at : at + each.count].reshape(each.length, each.size))
        at += each.count
    return pieces

"""The bags of features of which some have bags of any number of ids, or are sequences.

Letters: B batch, F features, N ids of a feature, H ids of a bag of fixed length, L max_sequence_length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...config.resolved import Resolved
from ..bags import Bags, bags_of_checked
from .bags import AtOnceBags


class UnevenBags(AtOnceBags):
    """The bags of features of which each is dense, pooled, or a sequence.

    Args:
        resolved: the features.
        parts: per feature its ids, int64 or int32, each in [0, V): `[N]`, bag after bag.
        splits: per feature the row splits of its bags, `[B + 1]` from 0 to N; None for dense features.
        lengths: per pooled feature H, or UNEVEN; ONE_HOT for others.
        size: B.
    """

    def __init__(
        self,
        resolved: Resolved,
        parts: Sequence[NDArray[Any]],
        splits: Sequence[NDArray[Any] | None],
        lengths: tuple[int, ...],
        size: int,
    ) -> None:
        sequences = resolved.sequence_lengths
        shapes = [(size, most) if most else (size,) for most in sequences]
        super().__init__(parts, lengths, shapes, size)
        self.splits = splits
        self._resolved = resolved

    @property
    def form(self) -> tuple[object, ...]:
        return "uneven", self.size, tuple(splits is None for splits in self.splits)

    @cached_property
    def counts(self) -> Sequence[NDArray[Any] | None]:
        return [None if splits is None else splits[1:] - splits[:-1] for splits in self.splits]

    def _make(self) -> list[Bags]:
        resolved, found = self._resolved, []
        for feature, part, splits in zip(resolved.features, self.parts, self.splits, strict=True):
            ends = None if splits is None else torch.from_numpy(splits)
            table = resolved.table_of(feature)
            found.append(bags_of_checked(feature, table, torch.from_numpy(part), ends))
        return found


def gains_of(combiner: str, counts: NDArray[Any]) -> NDArray[np.float32]:
    """The gain of each id, `[N]`, of bags without weights.

    Args:
        counts: `[B]`, how many ids each bag has.
    """
    if combiner == "sum":
        return np.ones(int(counts.sum()), dtype=np.float32)
    divisors = np.maximum(counts, 1).astype(np.float64)
    if combiner == "sqrtn":
        np.sqrt(divisors, out=divisors)
    return np.repeat((1.0 / divisors).astype(np.float32), counts)

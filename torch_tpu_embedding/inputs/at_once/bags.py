"""The bags of features that were read at once, as they were given, without the bag of each id.

Letters: B batch, F features, N ids of a feature, H ids of a bag of fixed length.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime import host
from ..bags import Bags

ONE_HOT = 0
"""In place of H: at most one id for each activation, which is no bag and has no gain."""
UNEVEN = -1
"""In place of H: bags of any number of ids."""


class AtOnceBags(Sequence[Bags]):
    """The bags of features without weights and without an id that is not looked up.

    A list of Bags, those that `parse` gives, to everybody who looks at nothing else.

    Args:
        parts: per feature its ids, int64 or int32, each in [0, V): `[N]`, bag after bag; `[B]` for dense
            features. Arrays, whose every use costs less than that of a tensor.
        lengths: per feature H, UNEVEN, or ONE_HOT.
        shapes: of each feature's activations, without D.
        size: B.
    """

    def __init__(
        self,
        parts: Sequence[NDArray[Any]],
        lengths: tuple[int, ...],
        shapes: Sequence[tuple[int, ...]],
        size: int,
    ) -> None:
        self.parts = parts
        self.lengths = lengths
        self.shapes = shapes
        self.size = size

    @property
    @abstractmethod
    def form(self) -> tuple[object, ...]:
        """The properties that batches must share to be handled alike."""

    @property
    @abstractmethod
    def counts(self) -> Sequence[NDArray[Any] | None]:
        """`[B]` for each feature: how many ids each bag has; None for dense features."""

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, index: int) -> Bags: ...

    @overload
    def __getitem__(self, index: slice) -> list[Bags]: ...

    def __getitem__(self, index: int | slice) -> Bags | list[Bags]:
        return self._bags[index]

    def __iter__(self) -> Iterator[Bags]:
        return iter(self._bags)

    @cached_property
    def _bags(self) -> list[Bags]:
        return self._make()

    @abstractmethod
    def _make(self) -> list[Bags]:
        """The bags of each feature."""


class OneLengthBags(AtOnceBags):
    """The bags of features of which each has one length.

    Args:
        parts: per feature its ids, int64 or int32, each in [0, V): `[B · H]`, bag after bag; `[B]` for
            one-hot features.
        lengths: H of each feature, or ONE_HOT.
        gains: the gain of every id of each feature.
        size: B.
    """

    def __init__(
        self,
        parts: Sequence[NDArray[Any]],
        lengths: tuple[int, ...],
        gains: tuple[float, ...],
        size: int,
    ) -> None:
        super().__init__(parts, lengths, [(size,)] * len(lengths), size)
        self.gains = gains

    @property
    def matrix(self) -> Tensor | None:
        """`[F, B]` int64, if the ids of all features lie so in memory."""
        return None

    @property
    def form(self) -> tuple[object, ...]:
        return self.size, self.lengths

    @cached_property
    def counts(self) -> Sequence[NDArray[Any] | None]:
        return [None if n == ONE_HOT else np.full(self.size, n) for n in self.lengths]

    def _make(self) -> list[Bags]:
        return [*map(self._of, self.parts, self.lengths, self.gains)]

    def _of(self, part: NDArray[Any], length: int, gain: float) -> Bags:
        ids, shape, count = torch.from_numpy(part).to(torch.int64), (self.size,), part.size
        if length == ONE_HOT:
            return Bags(ids, None, None, shape, count)
        bag = host.arange(self.size).repeat_interleave(length)
        gains = torch.tensor([gain], dtype=torch.float32, device="cpu").expand(count)
        return Bags(ids, bag, gains, shape, count)


class OneIdBags(OneLengthBags):
    """The bags of features that all have one id a sample, as one matrix.

    Args:
        ids: `[F, B]` int64, each in [0, V).
    """

    def __init__(self, ids: Tensor) -> None:
        count = ids.shape[0]
        super().__init__((), (ONE_HOT,) * count, (1.0,) * count, ids.shape[1])
        self.ids = ids

    @property
    def matrix(self) -> Tensor:
        return self.ids

    def split(self, parts: int) -> list[OneIdBags]:
        """Share the samples among devices, in order, as `split_bags` does.

        Args:
            parts: devices, which divide B.
        """
        return [OneIdBags(each) for each in self.ids.tensor_split(parts, 1)]

    def _make(self) -> list[Bags]:
        return [Bags(each, None, None, (self.size,), self.size) for each in self.ids.unbind()]

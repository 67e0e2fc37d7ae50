"""Stand-ins for TorchRec's JaggedTensor and KeyedJaggedTensor, with the methods that are used of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Jagged:
    """A JaggedTensor, made of anything."""

    def __init__(
        self,
        values: Sequence[int],
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        offsets: Sequence[int] | None = None,
    ) -> None:
        self._values = torch.tensor(values, dtype=torch.int64)
        self._lengths = torch.tensor(lengths, dtype=torch.int32)
        self._weights = None if weights is None else torch.tensor(weights)
        ends = torch.cat([self._lengths.new_zeros(1), self._lengths.cumsum(0).int()])
        self._offsets = ends if offsets is None else torch.tensor(offsets, dtype=torch.int32)

    def values(self) -> Tensor:
        return self._values

    def lengths(self) -> Tensor:
        return self._lengths

    def offsets(self) -> Tensor:
        return self._offsets

    def weights_or_none(self) -> Tensor | None:
        return self._weights


class Keyed(Jagged):
    """A KeyedJaggedTensor; `strides` are its samples per key where they vary."""

    def __init__(
        self,
        keys: Sequence[str],
        values: Sequence[int],
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        inverse: tuple[list[str], list[list[int]]] | None = None,
        strides: list[int] | None = None,
    ) -> None:
        super().__init__(values, lengths, weights)
        self._keys, self._strides = list(keys), strides
        self._inverse = None if inverse is None else (inverse[0], torch.tensor(inverse[1]))

    def keys(self) -> list[str]:
        return self._keys

    def stride(self) -> int:
        return len(self._lengths) // len(self._keys)

    def stride_per_key(self) -> list[int]:
        return self._strides or [self.stride()] * len(self._keys)

    def variable_stride_per_key(self) -> bool:
        return self._strides is not None

    def inverse_indices_or_none(self) -> tuple[list[str], Tensor] | None:
        return self._inverse

    def __getitem__(self, key: str) -> Jagged:
        first = self._keys.index(key) * self.stride()
        lengths = self._lengths[first : first + self.stride()].tolist()
        start, stop = self._offsets[first], self._offsets[first + self.stride()]
        weights = None if self._weights is None else self._weights[start:stop].tolist()
        return Jagged(self._values[start:stop].tolist(), lengths, weights)

    def to_dict(self) -> dict[str, Jagged]:
        return {key: self[key] for key in self._keys}

"""A KeyedJaggedTensor whose keys have bags of one length each, read without cutting it into a Ragged a key.

Everything else, and every error, is left to `keyed_jagged.py`.
Letters: B batch, F keys, H ids of a bag of fixed length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config.declared import FeatureConfig
from ...config.resolved import Resolved
from ..keyed_jagged import is_keyed
from .bags import OneLengthBags
from .read import are_inside, are_plain, gain_of

_DTYPES = (torch.int64, torch.int32)


def read_keyed(
    resolved: Resolved, value: Any, output_shapes: Sequence[tuple[int, ...] | None]
) -> OneLengthBags | None:
    """The ids of a KeyedJaggedTensor that stands for a dict of features; None if they need a look at each.

    Args:
        output_shapes: of the features that have one of their own.
    """
    names = _names(resolved.structure)
    if not names or not is_keyed(value) or not are_plain(resolved, output_shapes):
        return None
    keys = [*value.keys()]
    if sorted(keys) != names or value.weights_or_none() is not None or _varies(value):
        return None
    flat, offsets = value.values(), value.offsets()
    lengths = offsets.diff()
    size = value.stride()
    if not size or lengths.numel() != size * len(keys) or flat.dim() != 1:
        return None
    if not all(each.is_cpu and each.dtype in _DTYPES for each in (flat, offsets)):
        return None
    every = tuple(lengths[::size].tolist())
    if not all(every) or not _are_equal(offsets, every, size):
        return None
    ends = np.cumsum(every) * size
    if ends[-1] != flat.numel():
        return None
    pieces = dict(
        zip(keys, zip(np.split(flat.numpy(), ends[:-1]), every, strict=True), strict=True)
    )
    parts, of_names = zip(*(pieces[name] for name in names), strict=True)
    if not all(map(are_inside, parts, resolved.vocabulary_sizes)):
        return None
    gains = map(gain_of, resolved.combiners, of_names)
    return OneLengthBags(parts, of_names, tuple(gains), size)


def _names(structure: Any) -> list[str]:
    """The keys of a dict of features in feature order; none if it is another nest."""
    if not isinstance(structure, Mapping):
        return []
    plain = all(isinstance(k, str) and isinstance(v, FeatureConfig) for k, v in structure.items())
    return sorted(structure) if plain else []


def _varies(value: Any) -> bool:
    """True if keys have different samples, or indices of the samples to take."""
    varies, inverse = (
        getattr(value, name, None)
        for name in ("variable_stride_per_key", "inverse_indices_or_none")
    )
    return bool(callable(varies) and varies()) or (callable(inverse) and inverse() is not None)


def _are_equal(offsets: Tensor, every: tuple[int, ...], size: int) -> bool:
    """True if all bags of each key have the length that `every` says, one after the other."""
    return offsets.numpy().tobytes() == _memory(every, size, offsets.dtype)


@lru_cache(maxsize=16)
def _memory(every: tuple[int, ...], size: int, dtype: torch.dtype) -> bytes:
    """The memory of the offsets of such bags."""
    lengths = torch.tensor(every, dtype=torch.int64, device="cpu").repeat_interleave(size)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(dtype).numpy().tobytes()

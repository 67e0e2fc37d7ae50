"""A KeyedJaggedTensor whose keys need no look at each, read without cutting it into a Ragged a key.

Everything else, and every error, is left to `keyed_jagged.py`.
Letters: B batch, F keys, N ids, H ids of a bag of fixed length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...config.resolved import Resolved
from ..keyed_jagged import is_keyed, key_names
from .bags import AtOnceBags, OneLengthBags
from .read import are_inside, bags_of, gain_of, may_be_read

_DTYPES = (np.dtype(np.int64), np.dtype(np.int32))


def read_keyed(
    resolved: Resolved, value: Any, output_shapes: Sequence[tuple[int, ...] | None]
) -> AtOnceBags | None:
    """The ids of a KeyedJaggedTensor that stands for a dict or a list of features; None if they need a look
    at each.

    Args:
        output_shapes: of the features that have one of their own.
    """
    if not is_keyed(value) or not may_be_read(resolved, output_shapes):
        return None
    names, keys = key_names(resolved.structure), [*value.keys()]
    if names is None or sorted(keys) != sorted(names) or len({*keys}) < len(keys):
        return None
    if value.weights_or_none() is not None or _varies(value):
        return None
    size, flat, offsets = value.stride(), value.values(), value.offsets()
    if not (size and flat.dim() == offsets.dim() == 1 and flat.is_cpu and offsets.is_cpu):
        return None
    ids, ends = flat.numpy(), offsets.numpy()
    if ids.dtype not in _DTYPES or ends.dtype not in _DTYPES or ends.size != size * len(keys) + 1:
        return None
    if ends[0] != 0 or ends[-1] != ids.size or not _are_lengths(value, ends):
        return None
    places = [keys.index(name) for name in names]
    parts = [ids[start:stop] for start, stop in pairwise(ends[::size].tolist())]
    ordered = [parts[place] for place in places]
    if resolved.all_may_be_plain:
        every = tuple((ends[1::size] - ends[:-1:size]).tolist())
        if all(every) and ends.tobytes() == _memory(every, size, ends.dtype.itemsize):
            lengths = tuple(every[place] for place in places)
            return _of_one_length(resolved, ordered, lengths, size)
    splits = [ends[size * place : size * (place + 1) + 1] - ends[size * place] for place in places]
    return bags_of(resolved, ordered, splits)


def _of_one_length(
    resolved: Resolved, parts: Sequence[NDArray[Any]], lengths: tuple[int, ...], size: int
) -> OneLengthBags | None:
    if not all(map(are_inside, parts, resolved.vocabulary_sizes)):
        return None
    gains = map(gain_of, resolved.combiners, lengths)
    return OneLengthBags(parts, lengths, tuple(gains), size)


def _are_lengths(value: Any, ends: NDArray[Any]) -> bool:
    """True if offsets never fall, and are those of its lengths."""
    counts = ends[1:] - ends[:-1]
    if counts.min() < 0:
        return False
    lengths = getattr(value, "lengths", None)
    if not callable(lengths):
        return True
    given = lengths()
    return given.is_cpu and np.array_equal(given.numpy(), counts)


def _varies(value: Any) -> bool:
    """True if keys have different samples, or indices of the samples to take."""
    varies, inverse = (
        getattr(value, name, None)
        for name in ("variable_stride_per_key", "inverse_indices_or_none")
    )
    return bool(callable(varies) and varies()) or (callable(inverse) and inverse() is not None)


@lru_cache(maxsize=16)
def _memory(every: tuple[int, ...], size: int, item: int) -> bytes:
    """The memory of the offsets of bags that have one length for each key.

    Args:
        every: the length for each key. item: the bytes of one offset.
    """
    lengths = np.repeat(np.array(every, dtype=np.int64), size)
    return np.concatenate([[0], lengths.cumsum()]).astype(f"i{item}").tobytes()

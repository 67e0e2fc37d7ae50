"""Features whose ids are read all at once: one id a sample, bags of one length or of any, sequences; and
matrices `[B, F]` of ids in place of a list of features.

Everything that is not as plain as that, wrong ids included, is left to `bags.py`, feature by feature.
Letters: B batch, F features, V vocabulary, H ids of a bag of fixed length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...config.declared import FeatureConfig
from ...config.resolved import Resolved
from ..entries import is_dense
from ..ragged import Ragged
from .bags import ONE_HOT, UNEVEN, AtOnceBags, OneIdBags, OneLengthBags
from .uneven import UnevenBags

_DTYPES = (torch.int64, torch.int32)


def read_at_once(
    resolved: Resolved, values: Sequence[Any], output_shapes: Sequence[tuple[int, ...] | None]
) -> AtOnceBags | None:
    """The ids of features without weights that need no look at each; None if one does.

    Args:
        values: the inputs in feature order.
        output_shapes: of the features that have one of their own.
    """
    if not may_be_read(resolved, output_shapes):
        return None
    return _read_one_id(resolved, values) or _read_parts(resolved, values)


def _read_one_id(resolved: Resolved, values: Sequence[Any]) -> OneIdBags | None:
    if not resolved.all_may_be_plain:
        return None
    first = values[0]
    if not isinstance(first, Tensor) or first.dtype not in _DTYPES or first.dim() != 1:
        return None
    dtype, shape = first.dtype, first.shape
    for value in values:
        if not (is_dense(value) and value.is_cpu and value.dtype is dtype and value.shape == shape):
            return None
    return _inside(resolved, torch.stack([*values]).to(torch.int64))


def _read_parts(resolved: Resolved, values: Sequence[Any]) -> AtOnceBags | None:
    parts: list[NDArray[Any]] = []
    splits: list[NDArray[Any] | None] = []
    for value in values:
        ids, of_feature = value, None
        if isinstance(value, Ragged):
            ids, of_feature = value.values, value.row_splits.numpy()
        elif not (is_dense(value) and value.dim() == 1 and value.is_cpu):
            return None
        if ids.dtype not in _DTYPES:
            return None
        parts.append(ids.numpy())
        splits.append(of_feature)
    return bags_of(resolved, parts, splits)


def bags_of(
    resolved: Resolved, parts: Sequence[NDArray[Any]], splits: Sequence[NDArray[Any] | None]
) -> AtOnceBags | None:
    """The bags of features; None if one of them needs a look of its own.

    Args:
        parts: per feature its ids, int64 or int32.
        splits: per feature the row splits of its bags; None for dense features.
    """
    lengths, first = [], splits[0]
    size = parts[0].size if first is None else first.size - 1
    features = zip(parts, splits, resolved.vocabulary_sizes, resolved.sequence_lengths, strict=True)
    for part, of_feature, rows, most in features:
        length = ONE_HOT
        if of_feature is None:
            if most or part.size != size:
                return None
        elif of_feature.size != size + 1 or of_feature[-1] != part.size:
            return None
        elif not most:
            length = _length_of_all(of_feature, part.size)
        if not are_inside(part, rows):
            return None
        lengths.append(length)
    if not size:
        return None
    if UNEVEN in lengths or any(resolved.sequence_lengths):
        return UnevenBags(resolved, parts, splits, tuple(lengths), size)
    gains = map(gain_of, resolved.combiners, lengths)
    return OneLengthBags(parts, tuple(lengths), tuple(gains), size)


def _length_of_all(splits: NDArray[Any], count: int) -> int:
    """H, if each bag has H ids, at least one; else UNEVEN.

    Args:
        splits: of the bags. count: the ids of all.
    """
    bags = splits.size - 1
    length, rest = divmod(count, bags) if bags else (0, 0)
    if rest or not length:
        return UNEVEN
    equal = _equal_splits(bags, length, splits.dtype.itemsize)
    return length if splits.tobytes() == equal else UNEVEN


@lru_cache(maxsize=128)
def _equal_splits(bags: int, length: int, item: int) -> bytes:
    """The memory of the row splits of bags of one length.

    Args:
        item: the bytes of one of them.
    """
    return np.arange(0, bags * length + 1, length, dtype=f"i{item}").tobytes()


def gain_of(combiner: str, length: int) -> float:
    """The gain of each id of a bag of `length` ids without weights."""
    if combiner == "sum" or length == ONE_HOT:
        return 1.0
    return 1.0 / (length if combiner == "mean" else math.sqrt(length))


def read_flat(
    resolved: Resolved, value: Any, output_shapes: Sequence[tuple[int, ...] | None]
) -> AtOnceBags | None:
    """As `read_at_once`, of a list of features or of a matrix `[B, F]` in place of that list.

    Args:
        resolved: its features stand in one list or tuple.
    """
    count = len(resolved.features)
    if type(value) is type(resolved.structure):
        return read_at_once(resolved, value, output_shapes) if len(value) == count else None
    if not is_dense(value) or value.dim() != 2 or value.shape[1] != count:
        return None
    if value.dtype not in _DTYPES or not value.is_cpu:
        return None
    if not resolved.all_may_be_plain or any(output_shapes):
        return None
    # numpy, which transposes in half of torch's time
    ids = np.ascontiguousarray(value.numpy().T).astype(np.int64, copy=False)
    return _inside(resolved, torch.from_numpy(ids))


def with_columns(structure: Any, features: Any, path: str = "") -> Any:
    """A nest of inputs with each matrix `[B, F]` that stands for a list of F features cut into its columns.

    Args:
        structure: the nest of FeatureConfig.
        path: where the nests stand in larger ones, for messages.

    Raises:
        ValueError: a matrix has another number of columns.
    """
    if isinstance(structure, Mapping) and isinstance(features, Mapping):
        return {
            key: with_columns(structure[key], value, f"{path}/{key}") if key in structure else value
            for key, value in features.items()
        }
    if not isinstance(structure, (list, tuple)):
        return features
    if type(features) is type(structure) and len(features) == len(structure):
        if all(isinstance(each, FeatureConfig) for each in structure):
            return features
        pairs = enumerate(zip(structure, features, strict=True))
        return _like(structure, [with_columns(s, f, f"{path}/{n}") for n, (s, f) in pairs])
    if not _stands_for(structure, features):
        return features
    if features.shape[1] != len(structure):
        at = f" at {path[1:]!r}" if path else ""
        raise ValueError(
            f"features{at}: a matrix of ids must have shape [B, {len(structure)}], a column for each of "
            f"the {len(structure)} features in the order of feature_config, got {[*features.shape]}; "
            "transpose it with .t() if it has a row for each, or give a list of tensors"
        )
    return _like(structure, features.unbind(1))


def _stands_for(structure: Any, value: Any) -> bool:
    """True if `value` is a matrix in place of a list of features."""
    return (
        isinstance(structure, (list, tuple))
        and is_dense(value)
        and value.dim() == 2
        and all(isinstance(each, FeatureConfig) for each in structure)
    )


def _like(container: Any, parts: Sequence[Any]) -> Any:
    return type(container)(*parts) if hasattr(container, "_fields") else type(container)(parts)


def are_inside(ids: NDArray[Any], rows: int) -> bool:
    """True if ids, int64 or int32, are in [0, rows)."""
    if not ids.size:
        return True
    # Without a sign a negative id is larger than any other.
    if ids.itemsize == 4:
        return bool(np.maximum.reduce(ids.view(np.uint32)) < min(rows, 1 << 31))
    return bool(np.maximum.reduce(ids.view(np.uint64)) < rows)


def may_be_read(resolved: Resolved, output_shapes: Sequence[tuple[int, ...] | None]) -> bool:
    """True if every id of every feature is the number of a row, and no feature fills a shape of its own."""
    return resolved.ids_are_rows and not any(output_shapes)


def _inside(resolved: Resolved, ids: Tensor) -> OneIdBags | None:
    """The ids `[F, B]`; None if one of them is outside [0, V), which `id_range.py` names."""
    if not ids.numel():
        return None
    # Without a sign a negative id is larger than any other.
    largest = ids.numpy().view(np.uint64).max(axis=1)
    if (largest >= np.array(resolved.vocabulary_sizes, dtype=np.uint64)).any():
        return None
    return OneIdBags(ids)

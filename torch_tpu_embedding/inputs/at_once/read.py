"""Features of one id a sample, or with bags of one length, read all at once; and matrices `[B, F]` of ids
in place of a list of features.

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
from .bags import ONE_HOT, OneIdBags, OneLengthBags

_DTYPES = (torch.int64, torch.int32)


def read_at_once(
    resolved: Resolved, values: Sequence[Any], output_shapes: Sequence[tuple[int, ...] | None]
) -> OneLengthBags | None:
    """The ids of features that all have one a sample, or bags of one length without weights, and that need
    no look at each; None if one does.

    Args:
        values: the inputs in feature order.
        output_shapes: of the features that have one of their own.
    """
    if not are_plain(resolved, output_shapes):
        return None
    return _read_one_id(resolved, values) or _read_one_length(resolved, values)


def _read_one_id(resolved: Resolved, values: Sequence[Any]) -> OneIdBags | None:
    first = values[0]
    if not isinstance(first, Tensor) or first.dtype not in _DTYPES or first.dim() != 1:
        return None
    dtype, shape = first.dtype, first.shape
    for value in values:
        if not (is_dense(value) and value.is_cpu and value.dtype is dtype and value.shape == shape):
            return None
    return _inside(resolved, torch.stack([*values]).to(torch.int64))


def _read_one_length(resolved: Resolved, values: Sequence[Any]) -> OneLengthBags | None:
    parts, lengths, sizes = [], [], set()
    for value, rows in zip(values, resolved.vocabulary_sizes, strict=True):
        length, ids = ONE_HOT, value
        if isinstance(value, Ragged):
            ids = value.values
            length = _length_of_all(value.row_splits, ids.numel())
            if length == ONE_HOT:
                return None
        elif not (is_dense(value) and value.dim() == 1 and value.is_cpu and value.numel()):
            return None
        if ids.dtype not in _DTYPES:
            return None
        array = ids.numpy()
        if not are_inside(array, rows):
            return None
        sizes.add(array.size // (length or 1))
        parts.append(array)
        lengths.append(length)
    if len(sizes) > 1:
        return None
    gains = map(gain_of, resolved.combiners, lengths)
    return OneLengthBags(parts, tuple(lengths), tuple(gains), sizes.pop())


def _length_of_all(splits: Tensor, count: int) -> int:
    """H, if each bag has H ids, at least one; else ONE_HOT, which is no length.

    Args:
        splits: of the bags. count: the ids of all.
    """
    bags = splits.numel() - 1
    length, rest = divmod(count, bags) if bags else (0, 0)
    if rest or not length:
        return ONE_HOT
    return (
        length if splits.numpy().tobytes() == _equal_splits(bags, length, splits.dtype) else ONE_HOT
    )


@lru_cache(maxsize=128)
def _equal_splits(bags: int, length: int, dtype: torch.dtype) -> bytes:
    """The memory of the row splits of bags of one length."""
    return torch.arange(0, bags * length + 1, length, dtype=dtype, device="cpu").numpy().tobytes()


def gain_of(combiner: str, length: int) -> float:
    """The gain of each id of a bag of `length` ids without weights."""
    if combiner == "sum" or length == ONE_HOT:
        return 1.0
    return 1.0 / (length if combiner == "mean" else math.sqrt(length))


def read_flat(
    resolved: Resolved, value: Any, output_shapes: Sequence[tuple[int, ...] | None]
) -> OneLengthBags | None:
    """As `read_at_once`, of a list of features or of a matrix `[B, F]` in place of that list.

    Args:
        resolved: its features stand in one list or tuple.
    """
    count = len(resolved.features)
    if type(value) is type(resolved.structure):
        return read_at_once(resolved, value, output_shapes) if len(value) == count else None
    if not is_dense(value) or value.dim() != 2 or value.shape[1] != count:
        return None
    if value.dtype not in _DTYPES or not value.is_cpu or not are_plain(resolved, output_shapes):
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
    """True if ids, int64 or int32 and not none at all, are in [0, rows)."""
    # Without a sign a negative id is larger than any other.
    if ids.itemsize == 4:
        return bool(np.maximum.reduce(ids.view(np.uint32)) < min(rows, 1 << 31))
    return bool(np.maximum.reduce(ids.view(np.uint64)) < rows)


def are_plain(resolved: Resolved, output_shapes: Sequence[tuple[int, ...] | None]) -> bool:
    """True if no feature is a sequence, fills a shape of its own or has a padding row."""
    return resolved.all_may_be_plain and not any(output_shapes)


def _inside(resolved: Resolved, ids: Tensor) -> OneIdBags | None:
    """The ids `[F, B]`; None if one of them is outside [0, V), which `id_range.py` names."""
    if not ids.numel():
        return None
    # Without a sign a negative id is larger than any other.
    largest = ids.numpy().view(np.uint64).max(axis=1)
    if (largest >= np.array(resolved.vocabulary_sizes, dtype=np.uint64)).any():
        return None
    return OneIdBags(ids)

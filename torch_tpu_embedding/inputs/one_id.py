"""Features of one id a sample, read all at once; and matrices `[B, F]` of ids in place of a list of them.

Everything that is not as plain as that, wrong ids included, is left to `bags.py`, feature by feature.
Letters: B batch, F features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from ..config.declared import FeatureConfig
from ..config.resolved import Resolved
from .bags import Bags
from .entries import is_dense

_DTYPES = (torch.int64, torch.int32)


class OneIdBags(Sequence[Bags]):
    """The bags of features that all have one id a sample, as one matrix.

    A list of Bags to everybody who does not look at `ids`.

    Args:
        ids: `[F, B]` int64, each in [0, V).
    """

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    @property
    def shape(self) -> tuple[int]:
        """The shape of each feature's activations without D: `(B,)`."""
        return (self.ids.shape[1],)

    def __len__(self) -> int:
        return self.ids.shape[0]

    @overload
    def __getitem__(self, index: int) -> Bags: ...

    @overload
    def __getitem__(self, index: slice) -> list[Bags]: ...

    def __getitem__(self, index: int | slice) -> Bags | list[Bags]:
        if isinstance(index, slice):
            return [*self][index]
        return Bags(self.ids[index], None, None, self.shape, self.ids.shape[1])

    def __iter__(self) -> Iterator[Bags]:
        shape, count = self.shape, self.ids.shape[1]
        return (Bags(each, None, None, shape, count) for each in self.ids.unbind())


def read_one_id(
    resolved: Resolved, values: Sequence[Any], output_shapes: Sequence[tuple[int, ...] | None]
) -> OneIdBags | None:
    """The ids of features that all have one a sample and need no look at each; None if one does.

    Args:
        values: the inputs in feature order.
        output_shapes: of the features that have one of their own.
    """
    first = values[0]
    if not isinstance(first, Tensor) or first.dtype not in _DTYPES or first.dim() != 1:
        return None
    dtype, shape = first.dtype, first.shape
    for value in values:
        if not (is_dense(value) and value.is_cpu and value.dtype is dtype and value.shape == shape):
            return None
    if not _are_plain(resolved, output_shapes):
        return None
    return _inside(resolved, torch.stack([*values]).to(torch.int64))


def read_flat(
    resolved: Resolved, value: Any, output_shapes: Sequence[tuple[int, ...] | None]
) -> OneIdBags | None:
    """The ids of a list that has one a sample for each feature, or of a matrix in place of that list; None
    if they need a look at each.

    Args:
        resolved: its features stand in one list or tuple.
    """
    count = len(resolved.features)
    if type(value) is type(resolved.structure):
        return read_one_id(resolved, value, output_shapes) if len(value) == count else None
    if not is_dense(value) or value.dim() != 2 or value.shape[1] != count:
        return None
    if value.dtype not in _DTYPES or not value.is_cpu or not _are_plain(resolved, output_shapes):
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


def _are_plain(resolved: Resolved, output_shapes: Sequence[tuple[int, ...] | None]) -> bool:
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

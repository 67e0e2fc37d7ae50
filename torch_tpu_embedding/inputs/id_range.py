"""Ids outside [0, V), and the id that counts as none: which ids of a feature are looked up."""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor

from ..config.resolved import Table
from .entries import SparseIds, bag_name

ID_BOUNDS = ("raise", "drop", "warn_and_drop")


def ids_to_keep(
    where: str,
    table: Table,
    ids: Tensor,
    sparse_ids: SparseIds | None,
    dense_shape: tuple[int, ...] | None,
    id_bounds: str,
) -> tuple[Tensor | None, int]:
    """A mask of the ids that are looked up, None if all are; and how many lie outside [0, V).

    For a table with a vocabulary no id lies outside, and none wraps: padding_idx is an id as any other.
    """
    if table.config.vocabulary is not None:
        padding = table.config.padding_idx
        others = None if padding is None else ids != padding
        return (None if others is None or bool(others.all()) else others), 0
    inside = _inside(where, table, ids, sparse_ids, dense_shape, id_bounds)
    dropped = 0 if inside is None else len(ids) - int(inside.sum())
    if table.padding_row is None:
        return inside, dropped
    real = ids != table.padding_row
    if inside is not None:
        return inside & real, dropped
    return (None if bool(real.all()) else real), dropped


def _inside(
    where: str,
    table: Table,
    ids: Tensor,
    sparse_ids: SparseIds | None,
    dense_shape: tuple[int, ...] | None,
    id_bounds: str,
) -> Tensor | None:
    """None if all ids are in [0, V), else a mask of those that are; or the error."""
    # Without a sign a negative id is larger than any other.
    if ids.numel() == 0 or ids.numpy().view(np.uint64).max() < table.vocabulary_size:
        return None
    inside = (ids >= 0) & (ids < table.vocabulary_size)
    outside = (~inside).nonzero()[:, 0]
    at = int(outside[0])
    name = (
        sparse_ids.name(at) if sparse_ids is not None else bag_name(at, dense_shape or (len(ids),))
    )
    more = f" ({len(outside) - 1} more like it)" if len(outside) > 1 else ""
    found = f"{where}: id {int(ids[at])} at {name} is outside [0, {table.vocabulary_size}){more}"
    if id_bounds == "raise":
        raise ValueError(
            f"{found}; correct the ids, raise vocabulary_size, or choose id_bounds='drop' or "
            "'warn_and_drop'"
        )
    if id_bounds == "warn_and_drop":
        warnings.warn(f"{found}; dropped", RuntimeWarning, stacklevel=2)
    return inside

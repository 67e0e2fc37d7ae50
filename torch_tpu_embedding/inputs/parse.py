"""A nest of inputs, checked, as one list of bags for each feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config.nest import flatten_like
from ..config.resolved import Resolved
from .at_once.keyed import read_keyed
from .at_once.read import read_at_once, read_flat, with_columns
from .bags import Bags, parse
from .keyed_jagged import holds_jagged, split_jagged


def parse_features(
    resolved: Resolved,
    features: Any,
    weights: Any,
    batch_size: int | None,
    id_bounds: str,
    output_shapes: Sequence[tuple[int, ...] | None],
    *,
    constant_weights: bool = False,
) -> Sequence[Bags]:
    """Check a nest of inputs and bring it into bags of ids, in feature order; arguments as for `parse`.

    Features without weights whose ids are all rows of their tables are read at once, with the same result.
    """
    is_flat = weights is None and resolved.is_flat
    read: Sequence[Bags] | None = None
    if is_flat:
        read = read_flat(resolved, features, output_shapes)
    if read is None and weights is None:
        read = read_keyed(resolved, features, output_shapes)
    if read is not None:
        return read
    features, weights = without_jagged(resolved.structure, features, weights)
    features = with_columns(resolved.structure, features)
    flat = flatten_like(resolved.structure, features, "features")
    flat_weights: list[Any] = [None] * len(flat)
    if weights is not None:
        flat_weights = flatten_like(resolved.structure, weights, "weights")
    elif not is_flat:
        read = read_at_once(resolved, flat, output_shapes)
        if read is not None:
            return read
    return [
        parse(
            feature,
            resolved.table_of(feature),
            value,
            weight,
            batch_size=batch_size,
            output_shape=shape,
            id_bounds=id_bounds,
            constant_weights=constant_weights,
        )
        for feature, value, weight, shape in zip(
            resolved.features, flat, flat_weights, output_shapes, strict=True
        )
    ]


def without_jagged(structure: Any, features: Any, weights: Any) -> tuple[Any, Any]:
    """Ids and weights with TorchRec's tensors taken apart.

    Args:
        structure: the nest of FeatureConfig.
    """
    if not holds_jagged(features):
        return features, weights
    if weights is not None:
        raise ValueError(
            "weights were given beside a KeyedJaggedTensor, which brings its own, as a JaggedTensor does; "
            "pass None, and set is_weighted=False in the FeatureConfig of features that shall have none"
        )
    return split_jagged(features, structure)

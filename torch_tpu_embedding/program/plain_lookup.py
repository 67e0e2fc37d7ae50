"""Lookup on the CPU in plain differentiable torch, for serving and inspection.

Letters: B batch, N ids, V vocabulary, D dim, L max_sequence_length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config.declared import TableConfig
from ..config.nest import flatten_like, flatten_with_paths, pack_like, prune_like
from ..config.quantization import quantize
from ..config.resolved import Feature, Resolved, resolve
from ..config.vocabulary import DynamicVocabulary
from ..inputs.at_once.read import with_columns
from ..inputs.bags import Bags
from ..inputs.id_range import ID_BOUNDS
from ..inputs.parse import parse_features, without_jagged
from ..runtime.modes import outside_graph
from ..vocabularies.rows_of_ids import FindRows, bags_of_rows


@outside_graph
def serving_embedding_lookup(
    inputs: Any,
    weights: Any,
    tables: Mapping[TableConfig, Tensor],
    feature_config: Any,
    *,
    id_bounds: str = "raise",
) -> Any:
    """Look up features in CPU tables, after `tf.tpu.experimental.embedding.serving_embedding_lookup`.

    The same inputs, checks and results as `TPUEmbedding` on an XLA device; any batch size, and any
    part of the features.

    Args:
        inputs: nested like feature_config; dense, sparse, `Ragged` or jagged ids. Entries of a dict may
            be left out. A matrix `[B, F]` may stand for a list of F features with an id a sample.
        weights: None, or nested like feature_config.
        tables: TableConfig → `[V, D]`; `TPUEmbedding(device="cpu").embedding_tables` is one.
        feature_config: a nest of FeatureConfig.
        id_bounds: as for TPUEmbedding.

    Returns:
        Activations nested like inputs, keys in the order of feature_config, `[B, D]` or `[B, L, D]`.

    Raises:
        KeyError: a table is not in `tables`.
        TypeError, ValueError: an input is wrong, or there is none; or a table has a DynamicVocabulary,
            whose map from ids to rows only an embedding has.
    """
    return look_up_on_host(inputs, weights, tables, feature_config, id_bounds, None)


def look_up_on_host(
    inputs: Any,
    weights: Any,
    tables: Mapping[TableConfig, Tensor],
    feature_config: Any,
    id_bounds: str,
    find: FindRows | None,
) -> Any:
    """As `serving_embedding_lookup`.

    Args:
        inputs, weights, tables, feature_config, id_bounds: as there.
        find: gives the rows by the maps of tables with a DynamicVocabulary; None makes these an error.
    """
    if id_bounds not in ID_BOUNDS:
        raise ValueError(f"id_bounds must be one of {ID_BOUNDS}, got {id_bounds!r}")
    names = {table.config: table.name for table in resolve(feature_config, None).tables}
    inputs, weights = without_jagged(feature_config, inputs, weights)
    inputs = with_columns(feature_config, inputs)
    asked = prune_like(feature_config, inputs)
    flatten_like(asked, inputs, "features")  # says which keys are not of the configuration
    if not [*flatten_with_paths(asked)]:
        known = [path for path, _ in flatten_with_paths(feature_config)]
        raise ValueError(f"features: the inputs hold none; give at least one of {known}")
    resolved = resolve(asked, None, names)
    held = []
    for table in resolved.tables:
        if find is None and isinstance(table.config.vocabulary, DynamicVocabulary):
            raise ValueError(
                f"table {table.name!r}: serving_embedding_lookup has not the map from ids to rows of a "
                "DynamicVocabulary; call TPUEmbedding(device='cpu'), which holds it, or what "
                "export_serving gives"
            )
        if table.config not in tables:
            raise KeyError(f"table {table.name!r} of feature_config is not in tables")
        value = tables[table.config]
        if not isinstance(value, Tensor):
            raise TypeError(
                f"table {table.name!r}: expected a torch.Tensor, got {type(value).__name__}"
            )
        if value.shape != (table.vocabulary_size, table.dim):
            raise ValueError(
                f"table {table.name!r}: expected shape {[table.vocabulary_size, table.dim]}, got "
                f"{[*value.shape]}"
            )
        held.append(value)
    shapes = [feature.output_shape for feature in resolved.features]
    with torch._C._DisableFuncTorch():  # ids are data, which a transform of the tables leaves alone
        bags = parse_features(resolved, inputs, weights, None, id_bounds, shapes)
        bags = [*bags_of_rows(resolved, bags, find)]  # made here, not when looked at
    return pack_like(resolved.structure, look_up_features(resolved, bags, held))


def look_up_features(
    resolved: Resolved, bags: Sequence[Bags], tables: Sequence[Tensor]
) -> list[Tensor]:
    """Activations in feature order; `tables` in the order of `resolved.tables`."""
    return [
        _look_up(feature, each, tables[feature.table_index])
        for feature, each in zip(resolved.features, bags, strict=True)
    ]


def _look_up(feature: Feature, bags: Bags, table: Tensor) -> Tensor:
    rows = table.index_select(0, bags.ids.clamp(min=0))
    if feature.config.table.dtype == torch.bfloat16:
        rows = rows.float()  # as on the device, where sums and activations are float32
    rows = _quantized(rows, feature)
    if bags.bag is None or bags.gain is None:
        sums = rows.where(bags.ids[:, None] >= 0, 0.0)
    else:
        sums = rows.new_zeros(math.prod(bags.shape), table.shape[1])
        sums = sums.index_add(0, bags.bag, rows * bags.gain[:, None].to(rows.dtype))
    if feature.output_dtype == torch.bfloat16:
        sums = sums.bfloat16()
    return sums.view(*bags.shape, table.shape[1])


def _quantized(rows: Tensor, feature: Feature) -> Tensor:
    """Rounded rows whose gradient is that of the rows (straight-through)."""
    config = feature.config.table.quantization_config
    return rows if config is None else rows + (quantize(rows, config) - rows).detach()

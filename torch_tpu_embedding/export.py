"""Export for serving: a plain CPU module that torch.export takes, with ordinary nn.Embedding tables.

Letters: B batch, N ids, D dim, L max_sequence_length.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import Feature
from .embedding import TPUEmbedding
from .layout import WEIGHT
from .quantization import quantize

Input = Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]


class ServingModule(nn.Module):
    """The lookup of a trained embedding, without torch_xla, checks or anything of this package's state.

    `tables` holds an `nn.Embedding` per table, by name with '.' as '_'. A quantized table is exported
    rounded.
    """

    def __init__(self, embedding: TPUEmbedding) -> None:
        super().__init__()
        if embedding.placement.num_shards > 1:
            raise ValueError(
                "export_serving: this process holds one shard of "
                f"{embedding.placement.num_shards} of every table; save a checkpoint and "
                "export from one process that has loaded it"
            )
        state = embedding.state_dict()
        self.tables = nn.ModuleDict()
        self._features: dict[str, tuple[str, Feature, str]] = {}
        for table in embedding.resolved.tables:
            key = table.name.replace(".", "_")
            if key in self.tables:
                raise ValueError(f"export_serving: two tables would be named {key!r}; rename one")
            weight = quantize(state[f"{table.name}.{WEIGHT}"], table.config.quantization_config)
            padding = table.padding_row
            if padding is not None:
                weight = weight.index_fill(0, torch.tensor([padding], device="cpu"), 0.0)
            self.tables[key] = nn.Embedding(
                weight.shape[0], weight.shape[1], padding, _weight=weight, _freeze=True
            )
        for feature in embedding.resolved.features:
            if feature.name in self._features:
                raise ValueError(
                    f"export_serving: two features are named {feature.name!r}; give each FeatureConfig "
                    "its own name"
                )
            table = embedding.resolved.table_of(feature)
            self._features[feature.name] = (
                table.name.replace(".", "_"), feature, table.combiner,
            )  # fmt: skip

    def forward(self, features: dict[str, Input]) -> dict[str, Tensor]:
        """Look up features by name (all of them, or some).

        Args:
            features: ids `[B]` or `[B, …, 1]` for a dense feature; for any other a tuple
                (values `[N]`, row_splits `[B + 1]`), or with weights `[N]` as a third.

        Returns:
            Activations by feature name, as the training side gives them.
        """
        return {name: self._look_up(name, value) for name, value in features.items()}

    def _look_up(self, name: str, value: Input) -> Tensor:
        key, feature, combiner = self._features[name]
        table: Any = self.tables[key]
        if isinstance(value, Tensor):
            rows: Tensor = table(value)
            return rows.squeeze(-2) if value.dim() > 1 else rows
        ids, splits, *weights = value
        if not feature.config.is_weighted:
            weights = []
        length, shape = feature.max_sequence_length, feature.output_shape
        if shape is not None and math.prod(shape) != splits.shape[0] - 1:
            length = math.prod(shape) // (splits.shape[0] - 1)  # rows of a sequence, as in training
        if length:
            out = _sequence(table.weight, ids, splits, length)
        else:
            out = _pooled(table.weight, ids, splits, combiner, table.padding_idx, *weights)
        return out if shape is None else out.reshape(*shape, out.shape[-1])


def _sequence(table: Tensor, ids: Tensor, splits: Tensor, length: int) -> Tensor:
    """`[B, L, D]`; zeros beyond the end of a sample."""
    place = splits[:-1, None] + torch.arange(length, dtype=torch.int64, device=splits.device)
    there = place < splits[1:, None]
    padded = torch.cat([ids, ids.new_zeros(1)])
    rows = functional.embedding(padded[place.where(there, ids.shape[0])], table)
    return rows.where(there[:, :, None], 0.0)


def _pooled(
    table: Tensor,
    ids: Tensor,
    splits: Tensor,
    combiner: str,
    padding: int | None,
    weights: Tensor | None = None,
) -> Tensor:
    """`[B, D]`; zeros for an empty bag or a divisor of 0."""
    w = torch.ones_like(ids, dtype=table.dtype) if weights is None else weights
    if padding is not None:
        w = w.where(ids != padding, 0.0)
    # torch.export wants an id to gather even where all bags are empty: a last one, of no bag
    padded, w_padded = torch.cat([ids, ids.new_zeros(1)]), torch.cat([w, w.new_zeros(1)])
    sums = functional.embedding_bag(
        padded, table, splits, mode="sum", per_sample_weights=w_padded.to(table.dtype)
    )[:-1]
    if combiner == "sum":
        return sums
    exact = w_padded.to(torch.float64)
    powers = (exact if combiner == "mean" else exact * exact).cumsum(0)
    ends = torch.cat([powers.new_zeros(1), powers])
    divisor = ends[splits[1:]] - ends[splits[:-1]]
    if combiner == "sqrtn":
        divisor = divisor.sqrt()
    scale = torch.where(divisor == 0, 0.0, 1.0 / divisor)
    return sums * scale[:, None].to(table.dtype)


def export_serving(embedding: TPUEmbedding) -> ServingModule:
    """A plain CPU module with the tables as they are now; `torch.export.export` takes it.

    Args:
        embedding: on any device.

    Raises:
        ValueError: two tables or two features would have one name.
    """
    return ServingModule(embedding).eval()

"""A plain CPU module that looks up the tables of a trained embedding, without torch_xla.

Letters: B batch, N ids, V vocabulary, D dim, L max_sequence_length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.quantization import quantize
from ..config.resolved import WEIGHT, Feature, Table
from ..config.vocabulary import DynamicVocabulary, HashedVocabulary
from ..embedding import TPUEmbedding
from ..inputs.ragged import Ragged
from ..runtime import host
from ..vocabularies.row_hash import hashed_rows
from ..vocabularies.saved_maps import joined
from .int8 import LEAST_DIM, Int8Embedding
from .served_map import ServedMap

Input = Tensor | Ragged | tuple[Tensor, ...] | tuple[Ragged, ...]


class ServingModule(nn.Module):
    """The lookup of a trained embedding, without torch_xla and without this package's state.

    `tables` holds an `nn.Embedding` per table (an `Int8Embedding` if so wished), by name with '.' as '_',
    and with '_' behind it where the name is that of a method or attribute of modules, such as 'items'. A
    table with a `quantization_config` is exported rounded, one in bfloat16 as the same numbers in float32.
    Ids outside [0, V) do what `id_bounds` of the embedding says: RuntimeError, or no row ('warn_and_drop'
    drops without a word, for a program cannot warn). A table with a vocabulary takes the ids that training
    takes. Weights are not checked.
    """

    def __init__(self, embedding: TPUEmbedding, int8: bool = False) -> None:
        super().__init__()
        if embedding.placement.num_shards > 1:
            raise ValueError(
                "export_serving: this process holds one shard of "
                f"{embedding.placement.num_shards} of every table; save a checkpoint and "
                "export from one process that has loaded it"
            )
        state = embedding.state_dict()
        self.tables = nn.ModuleDict()
        self.maps = nn.ModuleDict()
        self._raises = embedding.id_bounds == "raise"
        self._features: dict[str, tuple[Table, Feature]] = {}
        for table in embedding.resolved.tables:
            key = _module_name(table)
            if key in self.tables:
                raise ValueError(f"export_serving: two tables would be named {key!r}; rename one")
            weight = state[f"{table.name}.{WEIGHT}"].float()
            weight = quantize(weight, table.config.quantization_config)
            padding = table.padding_row
            if padding is not None:
                weight = weight.index_fill(0, host.ints([padding]), 0.0)
            self.tables[key] = (
                Int8Embedding(weight, table.name)
                if int8 and weight.shape[1] >= LEAST_DIM
                else nn.Embedding(
                    weight.shape[0], weight.shape[1], padding, _weight=weight, _freeze=True
                )
            )
        for number, table in enumerate(embedding.resolved.tables):
            if isinstance(table.config.vocabulary, DynamicVocabulary):
                vocabularies = embedding._tables.vocabularies
                assert vocabularies is not None
                self.maps[_module_name(table)] = ServedMap(
                    joined(vocabularies.states(number)), table.config.vocabulary.oov_rows
                )
        for feature in embedding.resolved.features:
            if feature.name in self._features:
                raise ValueError(
                    f"export_serving: two features are named {feature.name!r}; give each FeatureConfig "
                    "its own name"
                )
            self._features[feature.name] = embedding.resolved.table_of(feature), feature

    def forward(self, features: Mapping[str, Input]) -> dict[str, Tensor]:
        """Look up features by name (all of them, or some).

        Args:
            features: ids `[B]` or `[B, …, 1]` for a dense feature; for any other a `Ragged` of ids, a pair
                of Ragged ids and Ragged weights, or their tensors: (values `[N]`, row_splits `[B + 1]`) or
                (values, row_splits, weights `[N]`).

        Returns:
            Activations by feature name, as the training side gives them.

        Raises:
            ValueError: a name or a kind of input is wrong.
            RuntimeError: an id is outside [0, V) and `id_bounds` was "raise", or row splits do not rise
                from 0 to N.
        """
        return {
            name: self._look_up(name, value).to(self.feature(name).output_dtype)
            for name, value in features.items()
        }

    def feature(self, name: str) -> Feature:
        """The configuration of a feature.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self._features:
            raise ValueError(
                f"no feature is named {name!r}; the embedding's are {[*self._features]}; inputs that are "
                "no ids of these, such as dense numbers, are arguments of their own of the model"
            )
        return self._features[name][1]

    def _look_up(self, name: str, value: Input) -> Tensor:
        feature = self.feature(name)
        table, _ = self._features[name]
        where = f"feature {name!r} (table {table.name!r})"
        parts = as_tensors(where, feature, value)
        module: Any = self.tables[_module_name(table)]
        ids = parts[0].to(torch.int64)
        weights = parts[2:] if feature.config.is_weighted else ()
        ids, inside = self._rows(where, table, ids)
        if len(parts) == 1:
            rows = _vectors(module, ids, inside.dim()).where(inside[..., None], 0.0)
            return rows.squeeze(-2) if inside.dim() > 1 else rows
        splits = parts[1].to(torch.int64)
        rises = (splits[1:] >= splits[:-1]).all() & (splits[0] == 0)
        _require(rises & (splits[-1] == ids.shape[0]), f"{where}: row splits must rise from 0 to N")
        length, shape = feature.max_sequence_length, feature.output_shape
        if shape is not None and math.prod(shape) != splits.shape[0] - 1:
            length = math.prod(shape) // (splits.shape[0] - 1)  # rows of a sequence, as in training
        if length:
            out = _sequence(module, ids, inside, splits, length)
        else:
            out = _pooled(module, ids, inside, splits, table.combiner, *weights)
        return out if shape is None else out.reshape(*shape, out.shape[-1])

    def _rows(self, where: str, table: Table, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The row of each id `[…]`, or its rows `[…, K]` by K > 1 hash functions; and a mask `[…]` of the
        ids that have one."""
        vocabulary, padding = table.config.vocabulary, table.config.padding_idx
        if isinstance(vocabulary, DynamicVocabulary):
            inside = torch.ones_like(ids, dtype=torch.bool) if padding is None else ids != padding
            return self.maps[_module_name(table)](ids), inside
        if isinstance(vocabulary, HashedVocabulary):
            inside = torch.ones_like(ids, dtype=torch.bool) if padding is None else ids != padding
            rows = hashed_rows(ids.reshape(-1), vocabulary, table.vocabulary_size)
            several = vocabulary.hash_functions > 1
            return rows.view(*ids.shape, -1) if several else rows.view(ids.shape), inside
        inside = (ids >= 0) & (ids < table.vocabulary_size)
        if self._raises:
            _require(inside.all(), f"{where}: an id is outside [0, {table.vocabulary_size})")
        if table.padding_row is not None:
            inside = inside & (ids != table.padding_row)
        return ids.clamp(0, table.vocabulary_size - 1), inside


def as_tensors(where: str, feature: Feature, value: Input) -> tuple[Tensor, ...]:
    """The input of one feature as (ids,), (values, row_splits) or (values, row_splits, weights).

    Args:
        where: names the feature in messages.

    Raises:
        ValueError: the feature does not take such an input.
    """
    if isinstance(value, Tensor):
        if feature.max_sequence_length:
            raise ValueError(
                f"{where}: a sequence feature takes Ragged ids or (values, row_splits), got a dense tensor"
            )
        if value.dim() != 1 and (value.dim() == 0 or value.shape[-1] != 1):
            raise ValueError(
                f"{where}: dense ids must have shape [B] or [B, …, 1], got {[*value.shape]}"
            )
        return (value,)
    if isinstance(value, Ragged):
        return value.values, value.row_splits
    parts: tuple[Any, ...] = value if isinstance(value, tuple) else ()
    if len(parts) == 2 and all(isinstance(part, Ragged) for part in parts):
        parts = parts[0].values, parts[0].row_splits, parts[1].values
    if len(parts) not in (2, 3) or not all(isinstance(part, Tensor) for part in parts):
        raise ValueError(
            f"{where}: expected dense ids, Ragged ids, a pair of Ragged ids and Ragged weights, (values, "
            f"row_splits) or (values, row_splits, weights), got {type(value).__name__}"
        )
    if len(parts) == 3 and feature.max_sequence_length:
        raise ValueError(f"{where}: a sequence feature takes no weights; leave them out")
    if len(parts) == 3 and not parts[2].dtype.is_floating_point:
        raise ValueError(f"{where}: weights must be floating point, got {parts[2].dtype}")
    return parts


def _module_name(table: Table) -> str:
    name = table.name.replace(".", "_")
    return f"{name}_" if hasattr(nn.ModuleDict(), name) else name


def _require(condition: Tensor, message: str) -> None:
    """Check a condition; the check stays in an exported program."""
    torch.ops.aten._assert_async.msg(condition, message)


def _vectors(table: nn.Module, rows: Tensor, dims: int) -> Tensor:
    """The row of each id, the ids in `dims` dimensions; the sum of its rows where it has several."""
    found: Tensor = table(rows)
    return found.sum(-2) if rows.dim() > dims else found


def _sequence(table: nn.Module, ids: Tensor, inside: Tensor, splits: Tensor, length: int) -> Tensor:
    """`[B, L, D]`; zeros beyond the end of a sample and where the id is not `inside`."""
    positions = splits[:-1, None] + torch.arange(length, dtype=torch.int64, device=splits.device)
    # torch.export wants an id to gather even where all samples are empty: a last one, at no position
    positions = positions.where(positions < splits[1:, None], ids.shape[0])
    padded = torch.cat([ids, ids.new_zeros(1, *ids.shape[1:])])
    there = torch.cat([inside, inside.new_zeros(1)])
    rows = _vectors(table, padded[positions], 2)
    return rows.where(there[positions][:, :, None], 0.0)


def _pooled(
    table: nn.Module,
    ids: Tensor,
    inside: Tensor,
    splits: Tensor,
    combiner: str,
    weights: Tensor | None = None,
) -> Tensor:
    """`[B, D]`, each bag for itself; zeros for an empty bag or a divisor of 0."""
    bags = splits.shape[0]  # one more than there are, for the ids that are not `inside`
    number = torch.arange(ids.shape[0], dtype=torch.int64, device=ids.device)
    bag = torch.searchsorted(splits[1:].contiguous(), number, right=True)
    bag = bag.where(inside, bags - 1)
    rows = _vectors(table, ids, 1)
    w = torch.ones_like(number, dtype=rows.dtype) if weights is None else weights
    gain = w.to(rows.dtype)
    if combiner != "sum":
        exact = w.to(torch.float64)
        powers = exact if combiner == "mean" else exact * exact
        divisor = exact.new_zeros(bags).index_add(0, bag, powers)
        if combiner == "sqrtn":
            divisor = divisor.sqrt()
        of_id = divisor.index_select(0, bag)
        gain = torch.where(of_id == 0, 0.0, exact / of_id).to(rows.dtype)
    return rows.new_zeros(bags, rows.shape[1]).index_add(0, bag, rows * gain[:, None])[:-1]

"""What the user declares: tables, features, and how the two resolve into a fixed order.

Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..optimizers import Optimizer
from .nest import flatten_with_paths
from .quantization import QuantizationConfig

Initializer = Callable[..., torch.Tensor]

COMBINERS = ("mean", "sum", "sqrtn")


@dataclass(frozen=True, eq=False)
class TableConfig:
    """One embedding table, after `tf.tpu.experimental.embedding.TableConfig`.

    Tables compare by identity: two configs with equal fields are two tables. The object is never
    changed by the library.

    Raises:
        ValueError: a field is out of range, naming the field, the value and what is allowed.
    """

    vocabulary_size: int
    """V: the number of rows; ids are 0 … V-1. Each device holds 2^31 - 8 rows of a table at the most."""
    dim: int
    """D: the length of one embedding vector."""
    initializer: Initializer | None = field(default=None, kw_only=True)
    """Gives the start values `[V, D]`: a callable (shape, dtype) → tensor, a factory such as
    `torch.zeros`, or a function of `torch.nn.init`. None: a normal with standard deviation 1/√D, cut at
    two deviations."""
    optimizer: Optimizer | None = field(default=None, kw_only=True)
    """This table's own optimizer; None takes the one given to `TPUEmbedding`."""
    combiner: str = field(default="mean", kw_only=True)
    """How the rows of one bag become one vector: 'mean' Σwe/Σw, 'sum' Σwe, 'sqrtn' Σwe/√Σw².
    Ignored for dense and sequence features, whose bags hold one id."""
    name: str | None = field(default=None, kw_only=True)
    """The table's name in checkpoints and messages; None becomes `table_<position>`."""
    quantization_config: QuantizationConfig | None = field(default=None, kw_only=True)
    """Rounds the rows as they are looked up, as a table in low precision would; the table stays."""
    dtype: torch.dtype = field(default=torch.float32, kw_only=True)
    """Of the table; only torch.float32."""
    padding_idx: int | None = field(default=None, kw_only=True)
    """An id that stands for no id, as in `torch.nn.EmbeddingBag`: a pooled feature leaves it out (a mean
    does not count it), a dense feature or a place of a sequence gets zeros, and its row, which starts as
    zeros, is neither read nor trained. A negative one counts from the end: -1 is the row V-1. (Where the
    data has the id -1 itself, choose `id_bounds="drop"`.)"""

    def __post_init__(self) -> None:
        _require_int("TableConfig", "vocabulary_size", self.vocabulary_size, 1)
        _require_int("TableConfig", "dim", self.dim, 1)
        if self.initializer is not None and not callable(self.initializer):
            raise ValueError(
                f"TableConfig: initializer must be None or a callable, got {self.initializer!r}"
            )
        if self.combiner not in COMBINERS:
            raise ValueError(
                f"TableConfig: combiner must be one of {', '.join(map(repr, COMBINERS))}, "
                f"got {self.combiner!r}"
            )
        quantization = self.quantization_config
        if quantization is not None and not isinstance(quantization, QuantizationConfig):
            raise ValueError(
                "TableConfig: quantization_config must be None or a QuantizationConfig, got "
                f"{quantization!r}"
            )
        if self.dtype != torch.float32:
            raise ValueError(f"TableConfig: dtype must be torch.float32, got {self.dtype!r}")
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise ValueError(
                f"TableConfig: name must be None or a non-empty str, got {self.name!r}"
            )
        padding, size = self.padding_idx, self.vocabulary_size
        if padding is not None:
            _require_int("TableConfig", "padding_idx", padding, -size)
            if padding >= size:
                raise ValueError(
                    f"TableConfig: padding_idx must be None or lie in [{-size}, {size}), the rows of the "
                    f"table, got {padding}"
                )


@dataclass(frozen=True, eq=False)
class FeatureConfig:
    """One input feature, after `tf.tpu.experimental.embedding.FeatureConfig`.

    Raises:
        ValueError: a field has the wrong type or is out of range.
    """

    table: TableConfig
    """The table that this feature looks up; several features may share one."""
    max_sequence_length: int = field(default=0, kw_only=True)
    """0: the ids of a sample are combined into one vector `[B, D]`. L > 0: a sequence feature, one
    vector per position `[B, L, D]`, longer samples cut, shorter ones padded with zeros."""
    validate_weights_and_indices: bool = field(default=True, kw_only=True)
    """False trusts the weights and saves the check that they are finite and do not cancel. Ids are
    checked in any case, for one out of range would touch another table's row."""
    output_shape: Sequence[int] | None = field(default=None, kw_only=True)
    """Shape of the activations without D; None takes it from `build` or from the first input. It may
    begin with another number than the batch size."""
    name: str | None = field(default=None, kw_only=True)
    """The feature's name in messages; None takes its place in feature_config, as in 'user/age'."""
    is_weighted: bool = field(default=True, kw_only=True)
    """False leaves out whatever weights come with the ids of this feature, as TorchRec's collections with
    `is_weighted=False` do; a KeyedJaggedTensor that has weights has them for all keys."""

    def __post_init__(self) -> None:
        if not isinstance(self.table, TableConfig):
            raise ValueError(f"FeatureConfig: table must be a TableConfig, got {self.table!r}")
        _require_int("FeatureConfig", "max_sequence_length", self.max_sequence_length, 0)
        if not isinstance(self.validate_weights_and_indices, bool):
            raise ValueError(
                "FeatureConfig: validate_weights_and_indices must be a bool, got "
                f"{self.validate_weights_and_indices!r}"
            )
        if not isinstance(self.is_weighted, bool):
            raise ValueError(f"FeatureConfig: is_weighted must be a bool, got {self.is_weighted!r}")
        if self.output_shape is not None:
            if isinstance(self.output_shape, str) or not isinstance(self.output_shape, Sequence):
                raise TypeError(
                    "FeatureConfig: output_shape must be None or a sequence of ints, got "
                    f"{self.output_shape!r}"
                )
            for size in self.output_shape:
                _require_int("FeatureConfig", "each size in output_shape", size, 1)
            if self.max_sequence_length > 0:
                raise ValueError(
                    f"FeatureConfig: max_sequence_length={self.max_sequence_length} and output_shape="
                    f"{[*self.output_shape]} exclude each other; leave max_sequence_length 0 and give "
                    "ragged ids with one row per sequence"
                )
        if self.name is not None and not isinstance(self.name, str):
            raise ValueError(f"FeatureConfig: name must be None or a str, got {self.name!r}")


def _require_int(owner: str, name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{owner}: {name} must be a Python int of at least {least}, got {value!r} "
            f"({type(value).__name__})"
        )


@dataclass(frozen=True)
class Table:
    """A table with its name and optimizer settled."""

    name: str
    config: TableConfig
    optimizer: Optimizer | None

    @property
    def vocabulary_size(self) -> int:
        return self.config.vocabulary_size

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def combiner(self) -> str:
        return self.config.combiner

    @property
    def padding_row(self) -> int | None:
        """The row of padding_idx, counted from the first."""
        padding = self.config.padding_idx
        return None if padding is None else padding % self.vocabulary_size

    @property
    def slot_names(self) -> tuple[str, ...]:
        return self.optimizer.slot_variable_names if self.optimizer is not None else ()


def field_shape(table: Table, name: str) -> tuple[int, int]:
    """`[V, width]` of a field of a table: its 'weight' or one of its slots."""
    width = table.dim
    if table.optimizer is not None and name in table.slot_names:
        width = table.optimizer.slot_width(name, table.dim)
    return table.vocabulary_size, width


@dataclass(frozen=True)
class Feature:
    """A feature with its name settled and its table as a position in `Resolved.tables`."""

    name: str
    config: FeatureConfig
    table_index: int

    @property
    def max_sequence_length(self) -> int:
        return self.config.max_sequence_length

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        shape = self.config.output_shape
        return None if shape is None else tuple(shape)


@dataclass(frozen=True)
class Resolved:
    """Every table once, in the order of first occurrence, and every feature in flattening order."""

    structure: Any
    tables: tuple[Table, ...]
    features: tuple[Feature, ...]

    def table_of(self, feature: Feature) -> Table:
        return self.tables[feature.table_index]

    def __deepcopy__(self, memo: object) -> Resolved:
        return self  # it never changes, and a copied module shall know the user's own configs


def resolve(
    feature_config: Any,
    optimizer: Optimizer | None,
    names: Mapping[TableConfig, str] | None = None,
) -> Resolved:
    """Flatten `feature_config`, name its tables and give each its optimizer.

    Args:
        names: of the tables, where they are settled already.

    The configs themselves are left as they are (TF writes names and optimizers into them).

    Raises:
        TypeError: a leaf is not a FeatureConfig.
        ValueError: there is no feature, an optimizer is of no known class, or two tables would have
            the same name.
    """
    leaves = list(flatten_with_paths(feature_config))
    if not leaves:
        raise ValueError("feature_config holds no feature: give at least one FeatureConfig")
    for path, leaf in leaves:
        if not isinstance(leaf, FeatureConfig):
            raise TypeError(
                f"feature_config{f' at {path!r}' if path else ''} must be a FeatureConfig, got "
                f"{type(leaf).__name__}"
            )
    configs = list(dict.fromkeys(leaf.table for _, leaf in leaves))  # order of first occurrence
    tables = []
    owners: dict[str, int] = {}
    for position, config in enumerate(configs):
        name = config.name if config.name is not None else f"table_{position}"
        name = names[config] if names is not None else name
        chosen = config.optimizer if config.optimizer is not None else optimizer
        if chosen is not None and not isinstance(chosen, Optimizer):
            raise ValueError(
                f"table {name!r}: {chosen!r} is an unsupported optimizer class; give one of "
                "torch_tpu_embedding.optimizers"
            )
        if name in owners:
            raise ValueError(
                f"Multiple tables with name {name!r} found (tables {owners[name]} and {position} "
                "in order of first occurrence): give each TableConfig its own name"
            )
        owners[name] = position
        tables.append(Table(name, config, chosen))
    places = {config: position for position, config in enumerate(configs)}
    features = tuple(
        Feature(leaf.name or path or "feature", leaf, places[leaf.table]) for path, leaf in leaves
    )
    return Resolved(feature_config, tuple(tables), features)

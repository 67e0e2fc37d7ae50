"""The resolved configuration, with names, optimizers and order decided; the rest of the package works with
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..io.warn import warn_caller
from ..optimizers import Optimizer
from .declared import FeatureConfig, TableConfig
from .nest import flatten_with_paths

WEIGHT = "weight"


@dataclass(frozen=True)
class Table:
    """A table with its final name and optimizer."""

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
        """The row of padding_idx, counted from the first; None if it has none, as with a vocabulary."""
        padding = self.config.padding_idx
        if padding is None or self.config.vocabulary is not None:
            return None
        return padding % self.vocabulary_size

    @property
    def in_bfloat16(self) -> bool:
        """True if the weights are bfloat16, False if they are float32."""
        return self.config.dtype == torch.bfloat16

    @property
    def dtype_name(self) -> str:
        """The dtype of the weights as checkpoints name it."""
        return "bfloat16" if self.in_bfloat16 else "float32"

    def dtype_of(self, field: str) -> torch.dtype:
        """The dtype of a field, 'weight' or a slot; slots of one number a row are float32."""
        if field == WEIGHT:
            return self.config.dtype
        return self.config.slot_dtype if field_shape(self, field)[1] > 1 else torch.float32

    @property
    def slot_dtype_name(self) -> str:
        """The dtype of slots of several numbers a row as checkpoints name it."""
        return "float32" if self.config.slot_dtype == torch.float32 else "bfloat16"

    @property
    def rounding(self) -> str | None:
        """The way in which an update rounds to bfloat16, 'stochastic' or 'nearest'; None in float32."""
        return (self.config.rounding or "stochastic") if self.in_bfloat16 else None

    @property
    def slot_names(self) -> tuple[str, ...]:
        return self.optimizer.slot_variable_names if self.optimizer is not None else ()

    @property
    def fields(self) -> tuple[str, ...]:
        """'weight', then the slots."""
        return (WEIGHT, *self.slot_names)


def field_shape(table: Table, name: str) -> tuple[int, int]:
    """`[V, width]` of a field of a table: its 'weight' or one of its slots."""
    width = table.dim
    if table.optimizer is not None and name in table.slot_names:
        width = table.optimizer.slot_width(name, table.dim)
    return table.vocabulary_size, width


@dataclass(frozen=True)
class Feature:
    """A feature with its final name, and its table as a position in `Resolved.tables`."""

    name: str
    config: FeatureConfig
    table_index: int

    @property
    def max_sequence_length(self) -> int:
        return self.config.max_sequence_length

    @property
    def output_dtype(self) -> torch.dtype:
        return self.config.output_dtype

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

    @cached_property
    def rounds(self) -> bool:
        """True if a table is rounded to bfloat16."""
        return any(table.in_bfloat16 for table in self.tables)

    @cached_property
    def has_vocabularies(self) -> bool:
        """True if a table has ids that are no row numbers."""
        return any(table.config.vocabulary is not None for table in self.tables)

    def table_of(self, feature: Feature) -> Table:
        return self.tables[feature.table_index]

    @cached_property
    def vocabulary_sizes(self) -> tuple[int, ...]:
        """V of the table of each feature."""
        return tuple(self.table_of(feature).vocabulary_size for feature in self.features)

    @cached_property
    def combiners(self) -> tuple[str, ...]:
        """The combiner of the table of each feature."""
        return tuple(self.table_of(feature).combiner for feature in self.features)

    @cached_property
    def is_flat(self) -> bool:
        """True if the features stand in one list or tuple, with no nest in it."""
        structure = self.structure
        return isinstance(structure, (list, tuple)) and all(
            isinstance(each, FeatureConfig) for each in structure
        )

    @cached_property
    def sequence_lengths(self) -> tuple[int, ...]:
        """The max_sequence_length of each feature."""
        return tuple(feature.max_sequence_length for feature in self.features)

    @cached_property
    def ids_are_rows(self) -> bool:
        """True if every id of every feature is the number of a row that is looked up: no table has a
        padding row or a vocabulary."""
        return not self.has_vocabularies and not any(
            table.padding_row is not None for table in self.tables
        )

    @cached_property
    def all_may_be_plain(self) -> bool:
        """True if every id of a dense input of every feature is the number of a row that is looked up: no
        feature is a sequence, and no table has a padding row or a vocabulary."""
        return self.ids_are_rows and not any(self.sequence_lengths)

    def __deepcopy__(self, memo: object) -> Resolved:
        return self  # it never changes, and a copied module shall know the user's own configs

    def positions(self, call: str, names: Sequence[str]) -> list[int]:
        """The positions in `tables` of tables that a user names.

        Args:
            call: the user's call, for the message.

        Raises:
            ValueError: no name is given, or there is no table of that name.
        """
        known = [table.name for table in self.tables]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(
                f"{call}: {f'no table is named {unknown}' if unknown else 'name the tables'}; the tables "
                f"are {known}, and requires_grad_ is for all of them"
            )
        return [known.index(name) for name in names]


def warn_of_equal_names(resolved: Resolved) -> None:
    """Warn of features that no message can tell apart."""
    places: dict[str, list[str]] = {}
    for feature, (path, _) in zip(
        resolved.features, flatten_with_paths(resolved.structure), strict=True
    ):
        places.setdefault(feature.name, []).append(path)
    for name, paths in places.items():
        if len(paths) > 1:
            warn_caller(
                f"feature_config: the features at {paths} are all named {name!r}, so that errors and "
                "describe() cannot tell them apart, and export_program refuses them; give each "
                "FeatureConfig its own name, or none, to be named by its place"
            )


def resolve(
    feature_config: Any,
    optimizer: Optimizer | None,
    names: Mapping[TableConfig, str] | None = None,
) -> Resolved:
    """Flatten `feature_config`, name its tables and give each its optimizer.

    Args:
        names: of the tables, where they are known already; None to derive them.

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
        _check_bfloat16(tables[-1])
    positions = {config: position for position, config in enumerate(configs)}
    features = tuple(
        Feature(leaf.name or path or "feature", leaf, positions[leaf.table])
        for path, leaf in leaves
    )
    return Resolved(feature_config, tuple(tables), features)


def _check_bfloat16(table: Table) -> None:
    optimizer = table.optimizer
    if not table.in_bfloat16 or optimizer is None:
        return
    name = type(optimizer).__name__
    if optimizer.steps_per_occurrence:
        raise ValueError(
            f"table {table.name!r}: with dtype=torch.bfloat16 an update is rounded once a step, but its "
            f"optimizer {name} takes one for each occurrence of an id (use_gradient_accumulation=False); "
            "give it use_gradient_accumulation=True, or the table dtype=torch.float32"
        )
    if optimizer.moves_all_rows:
        raise ValueError(
            f"table {table.name!r}: with dtype=torch.bfloat16 only rows that were looked up can change, "
            f"but its optimizer {name} moves all of them; choose a lazy one, or dtype=torch.float32"
        )
    for argument in ("clip_weight_min", "clip_weight_max"):
        bound = getattr(optimizer, argument)
        if bound is None:
            continue
        has = float(torch.tensor(bound, dtype=torch.bfloat16, device="cpu"))
        if has != bound:
            raise ValueError(
                f"table {table.name!r}: its weights are bfloat16, which has no number {bound!r}, so that "
                f"rounding would pass the {argument} of its optimizer {name}; the nearest number that it "
                f"has is {has!r}"
            )

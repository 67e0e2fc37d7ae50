"""A configuration as plain data, for logs and checkpoints, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .. import optimizers
from ..optimizers import Optimizer
from .declared import FeatureConfig, TableConfig
from .initializers import RowIdInitializer
from .nest import pack_like
from .quantization import QuantizationConfig
from .resolved import resolve
from .vocabulary import vocabulary_from_dict, vocabulary_to_dict

FORMAT = 1


def config_to_dict(feature_config: Any, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Describe a feature configuration in dicts, lists, strings and numbers, ready for JSON.

    A callable (an initializer, a learning rate, a slot function) cannot be written: its place holds
    `{"callable": name}`, and `config_from_dict` asks for it.

    Args:
        feature_config: a FeatureConfig, or a nest of them (dict, list, tuple).
        optimizer: for tables that have none of their own, or None.
    """
    resolved = resolve(feature_config, optimizer)
    features = []
    for feature in resolved.features:
        fields = _fields(feature.config)
        fields["table"] = resolved.table_of(feature).name
        if fields["output_shape"] is not None:
            fields["output_shape"] = [*fields["output_shape"]]
        if fields.pop("output_dtype") != torch.float32:  # else older versions read it, too
            fields["output_dtype"] = "bfloat16"
        features.append({"feature": fields})
    tables = []
    for table in resolved.tables:
        fields = _fields(table.config)
        fields.update(
            name=table.name, dtype=table.dtype_name, optimizer=optimizer_to_dict(table.optimizer)
        )
        if fields["rounding"] is None:  # then older versions read it, too
            fields.pop("rounding")
        if fields.pop("slot_dtype") != torch.float32:
            fields["slot_dtype"] = table.slot_dtype_name
        if isinstance(table.config.initializer, RowIdInitializer):
            fields["initializer"] = {"row_id": table.config.initializer.offset}
        if table.config.quantization_config is not None:
            fields["quantization_config"] = _fields(table.config.quantization_config)
        fields.pop("vocabulary")
        if table.config.vocabulary is not None:  # else older versions read it, too
            fields["vocabulary"] = vocabulary_to_dict(table.config.vocabulary)
        tables.append(fields)
    structure = _tagged(pack_like(feature_config, features))
    return {"format": FORMAT, "tables": tables, "features": structure}


def config_from_dict(
    described: Mapping[str, Any], callables: Mapping[str, Callable[..., Any]] | None = None
) -> Any:
    """The feature configuration that `config_to_dict` described; each table has its own optimizer.

    Args:
        described: as written, perhaps after a way through JSON.
        callables: name → the callable that belongs there.

    Raises:
        ValueError: it is of another format, or a callable is missing, with the names of those needed.
    """
    if described.get("format") != FORMAT:
        raise ValueError(
            f"config_from_dict: format {described.get('format')!r}, but this version reads {FORMAT}"
        )
    known = dict(callables or {})
    needed = sorted({name for name in callable_names(described) if name not in known})
    if needed:
        raise ValueError(f"config_from_dict: pass callables for the names {needed}")
    tables = {}
    for fields in described["tables"]:
        given = dict(fields)
        optimizer, initializer = given.pop("optimizer"), given.pop("initializer")
        quantization = given.pop("quantization_config")
        vocabulary = vocabulary_from_dict(given.pop("vocabulary", None))
        given["dtype"] = getattr(torch, given["dtype"])
        given["slot_dtype"] = getattr(torch, given.get("slot_dtype", "float32"))
        if isinstance(initializer, Mapping) and "row_id" in initializer:
            initializer = RowIdInitializer(initializer["row_id"])
        tables[given["name"]] = TableConfig(
            **given,
            initializer=_restore(initializer, known),
            optimizer=_restore_optimizer(optimizer, known),
            quantization_config=QuantizationConfig(**quantization) if quantization else None,
            vocabulary=vocabulary,
        )
    return _untagged(described["features"], tables)


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if callable(value) and not dataclasses.is_dataclass(value):
        return {"callable": f"{value.__module__}.{getattr(value, '__qualname__', repr(value))}"}
    return value


def optimizer_to_dict(optimizer: Optimizer | None) -> dict[str, Any] | None:
    """Class and options of an optimizer, ready for JSON; a callable is only named."""
    if optimizer is None:
        return None
    fields = _fields(optimizer)
    if isinstance(fields["clipvalue"], tuple):
        fields["clipvalue"] = {"bounds": [*fields["clipvalue"]]}
    return {"class": type(optimizer).__name__, **fields}


def _restore(value: Any, known: Mapping[str, Callable[..., Any]]) -> Any:
    if isinstance(value, Mapping) and "callable" in value:
        return known[value["callable"]]
    return value


def _restore_optimizer(
    described: Mapping[str, Any] | None, known: Mapping[str, Callable[..., Any]]
) -> Optimizer | None:
    if described is None:
        return None
    fields = {key: _restore(value, known) for key, value in described.items()}
    cls = getattr(optimizers, fields.pop("class"))
    if isinstance(fields["clipvalue"], Mapping):
        fields["clipvalue"] = tuple(fields["clipvalue"]["bounds"])
    made: Optimizer = cls(**fields)
    return made


def callable_names(described: Any) -> list[str]:
    """The names of all callables in a description."""
    if isinstance(described, Mapping):
        if set(described) == {"callable"}:
            return [described["callable"]]
        return [name for value in described.values() for name in callable_names(value)]
    if isinstance(described, list):
        return [name for value in described for name in callable_names(value)]
    return []


def _tagged(structure: Any) -> Any:
    """Containers as tagged dicts: JSON knows no tuples, and a feature must not look like a container."""
    if isinstance(structure, Mapping) and set(structure) == {"feature"}:
        return structure
    if isinstance(structure, Mapping):
        return {"dict": [[key, _tagged(value)] for key, value in structure.items()]}
    kind = "tuple" if isinstance(structure, tuple) else "list"
    return {kind: [_tagged(value) for value in structure]}


def _untagged(structure: Mapping[str, Any], tables: Mapping[str, TableConfig]) -> Any:
    ((kind, value),) = structure.items()
    if kind == "feature":
        dtype = getattr(torch, value.get("output_dtype", "float32"))
        return FeatureConfig(**{**value, "table": tables[value["table"]], "output_dtype": dtype})
    if kind == "dict":
        return {key: _untagged(inner, tables) for key, inner in value}
    parts = [_untagged(inner, tables) for inner in value]
    return tuple(parts) if kind == "tuple" else parts

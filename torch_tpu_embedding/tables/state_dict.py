"""The state_dict adapter: what the device holds, as logical tensors, and back after full checks.

Keys are `<table>.weight` and `<table>.<slot>`, CPU tensors of the rows that this process holds, in the
order of their ids: alone, `[V, D]` whose row i is id i. Beside them stands `_extra_state`, a JSON text in a
uint8 tensor (so that formats for tensors alone take it).
Letters: V vocabulary, D dim.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..config.resolved import WEIGHT, Resolved, Table, field_shape
from ..config.serialization import optimizer_to_dict
from ..config.vocabulary import DynamicVocabulary, vocabulary_difference, vocabulary_to_dict
from ..distributed.placement import STRATEGIES, Placement
from ..io import json_checks
from ..vocabularies.map_tensor import unpacked_map
from .low_precision.rounding import exact_or_reason
from .store import TableStore

EXTRA_KEY = "_extra_state"
FORMAT_VERSION = 1
_COUNT_DIGITS = 20
_REMEDY = "give its TableConfig the same vocabulary"

_check_description = json_checks.fields(
    {
        "num_shards": json_checks.integer(1),
        "strategy": json_checks.one_of(*STRATEGIES),
        "tables": json_checks.mapping(
            json_checks.text, json_checks.fields({}, {"shard": json_checks.integer()})
        ),
    },
    {"updates": json_checks.integer(0)},
)


def state_keys(table: Table) -> dict[str, str]:
    """Field name → checkpoint key of one table."""
    return {name: f"{table.name}.{name}" for name in (WEIGHT, *table.slot_names)}


def map_keys(resolved: Resolved) -> dict[int, str]:
    """Table with a DynamicVocabulary → the checkpoint key of its map."""
    return {
        number: f"{table.name}.ids"
        for number, table in enumerate(resolved.tables)
        if isinstance(table.config.vocabulary, DynamicVocabulary)
    }


def all_keys(resolved: Resolved) -> list[str]:
    """The checkpoint keys of all tables, in order."""
    return [key for table in resolved.tables for key in state_keys(table).values()]


def retrieve(resolved: Resolved, store: TableStore) -> dict[str, Tensor]:
    """The present rows of all tables, copied from the device, by checkpoint key."""
    held = store.read()
    return {
        key: held[index][name].to(table.dtype_of(name))
        for index, table in enumerate(resolved.tables)
        for name, key in state_keys(table).items()
    }


def extra_state(resolved: Resolved, placement: Placement, updates: int | None = None) -> Tensor:
    """The format, the tables, and the shard of each table that the tensors of a state_dict hold, as uint8
    of JSON.

    Args:
        updates: the number of updates so far; None leaves it out.
    """
    described = {
        "format": FORMAT_VERSION,
        "num_shards": placement.num_shards,
        "strategy": placement.strategy,
        "tables": {
            table.name: {
                "vocabulary_size": table.vocabulary_size,
                "dim": table.dim,
                "dtype": table.dtype_name,
                "shard": placement.shard_of(index),
                "optimizer": optimizer_to_dict(table.optimizer),
                **_vocabulary_of(table),
            }
            for index, table in enumerate(resolved.tables)
        },
    }
    text = json.dumps(described, sort_keys=True)
    if updates is not None:
        # of one length whatever the number is, for formats that load into tensors that are there
        count = json.dumps({"updates": updates})
        text = f"{text[:-1]}, {count[1:]}{' ' * (_COUNT_DIGITS - len(str(updates)))}"
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _vocabulary_of(table: Table) -> dict[str, object]:
    described = vocabulary_to_dict(table.config.vocabulary)
    return {} if described is None else {"vocabulary": described}


@dataclass
class LoadPlan:
    """The values that a state_dict would change, and everything that is wrong with it."""

    values: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """Table → field → its new value."""
    maps: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Table → the state of its map from ids to rows."""
    updates: int | None = None
    """The number of updates after which the state was taken, 0 if it does not say so; None if it has no
    description or not all tables, and the number stays."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def message(self) -> str:
        """Everything that is wrong, a line each."""
        lines = [f"Missing key: {key}" for key in self.missing]
        lines += [f"Unexpected key: {key}" for key in self.unexpected]
        return "\n\t".join(
            ["Error(s) in loading state_dict for TPUEmbedding:", *lines, *self.errors]
        )


def plan_load(
    resolved: Resolved,
    placement: Placement,
    state: Mapping[str, Any],
    prefix: str,
    assign: bool = False,
) -> LoadPlan:
    """Check the entries of `state` under `prefix` against the tables; nothing is changed.

    A process that holds a shard of each table takes a state of the same shard, or whole tables, of which it
    takes its rows.
    """
    plan = LoadPlan()
    if assign:
        plan.errors.append("assign=True is not possible: table values are copied; leave it False")
    extra = state.get(prefix + EXTRA_KEY)
    whole = None
    if extra is not None:
        whole, plan.updates, errors = _check_extra(resolved, placement, extra)
        plan.errors += errors
    known = {prefix + EXTRA_KEY}
    for index, table in enumerate(resolved.tables):
        ids = placement.ids(index, table.vocabulary_size)
        for name, key in state_keys(table).items():
            known.add(prefix + key)
            if prefix + key not in state:
                plan.missing.append(prefix + key)
                continue
            value = state[prefix + key]
            rows, width = field_shape(table, name)
            take_part = placement.num_shards > 1 and (
                whole if whole is not None else isinstance(value, Tensor) and len(value) == rows
            )
            wanted = [rows if take_part else len(ids), width]
            rows_are = "vocabulary_size" if wanted[0] == rows else "rows held here"
            dtype = table.dtype_of(name)
            error = _check_value(prefix + key, value, wanted, rows_are, dtype)
            if error:
                plan.errors.append(error)
            else:
                part = value[ids.start : ids.stop : ids.step] if take_part else value
                plan.values.setdefault(index, {})[name] = part.detach().float()
    for number, key in map_keys(resolved).items():
        known.add(prefix + key)
        if prefix + key not in state:
            plan.missing.append(prefix + key)
            continue
        try:
            plan.maps[number] = unpacked_map(state[prefix + key])
        except (ValueError, TypeError) as error:
            plan.errors.append(f"{prefix + key}: {error}")
    if plan.missing:
        plan.updates = None
    plan.unexpected = [key for key in state if key.startswith(prefix) and key not in known]
    return plan


def _check_value(
    key: str, value: object, wanted: list[int], rows_are: str, dtype: torch.dtype
) -> str | None:
    if not isinstance(value, Tensor):
        return f"{key}: expected a tensor {wanted}, got {type(value).__name__}"
    if [*value.shape] != wanted:
        return f"{key}: expected shape {wanted} ({rows_are}, width), got {[*value.shape]}"
    if dtype == torch.bfloat16 and value.dtype == torch.float32:
        return exact_or_reason(value, key)
    if value.dtype != dtype:
        return f"{key}: expected {dtype}, got {value.dtype}; convert it before loading"
    return None


def _check_extra(
    resolved: Resolved, placement: Placement, extra: object
) -> tuple[bool | None, int | None, list[str]]:
    """(whether the state has whole tables, None if that is not known; the number of updates; what is wrong
    with it)."""
    try:
        assert isinstance(extra, Tensor)
        described = json_checks.parse(bytes(extra.to(torch.uint8).tolist()))
        json_checks.fields({"format": json_checks.integer()})(described, "")
        if (version := described["format"]) != FORMAT_VERSION:
            reads = f"{EXTRA_KEY}: format {version}, but this version reads {FORMAT_VERSION}"
            return None, None, [reads]
        _check_description(described, "")
    except (AssertionError, ValueError, TypeError, RuntimeError) as error:
        why = f" ({error})" if isinstance(error, ValueError) else ""
        return (
            None,
            None,
            [
                f"{EXTRA_KEY}: not the description that state_dict() wrote{why}; remove it to load anyway"
            ],
        )
    updates = described.get("updates", 0)
    errors = [
        f"table {table.name!r}: {difference}; {_REMEDY}"
        for table in resolved.tables
        if (found := described["tables"].get(table.name)) is not None
        and (
            difference := vocabulary_difference(
                found.get("vocabulary"), table.config.vocabulary, "the state"
            )
        )
    ]
    shards = described["num_shards"]
    shown = [shards, described["strategy"]]
    shown += [described["tables"].get(table.name, {}).get("shard") for table in resolved.tables]
    if shards == 1:
        return True, updates, errors
    tables = range(len(resolved.tables))
    wanted = [placement.num_shards, placement.strategy, *map(placement.shard_of, tables)]
    differs = any(f not in (w, None) for f, w in zip(shown, wanted, strict=True))
    if not differs:
        return False, updates, errors
    here = (
        "whole tables"
        if placement.num_shards == 1
        else f"shards of {placement.num_shards} ({placement.strategy}), as process {placement.rank}"
    )
    return (
        False,
        None,
        [
            *errors,
            f"{EXTRA_KEY}: one shard of {shards} ({shown[1]}), but this process holds {here}; states "
            "of another number of processes load with checkpoint.save and checkpoint.load",
        ],
    )

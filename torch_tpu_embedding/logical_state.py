"""The state_dict adapter: what the device holds, as logical tensors, and back after full checks.

Keys are `<table>.weight` and `<table>.<slot>`, tensors `[V, D]` on the CPU whose row i is id i. Beside
them stands `_extra_state`, a JSON text in a uint8 tensor (so that formats for tensors alone take it).
Letters: V vocabulary, D dim.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .config import Resolved, Table, field_shape
from .layout import WEIGHT
from .store import TableStore

EXTRA_KEY = "_extra_state"
FORMAT_VERSION = 1


def state_keys(table: Table) -> dict[str, str]:
    """Field name → checkpoint key of one table."""
    return {name: f"{table.name}.{name}" for name in (WEIGHT, *table.slot_names)}


def all_keys(resolved: Resolved) -> list[str]:
    """The checkpoint keys of all tables, in order."""
    return [key for table in resolved.tables for key in state_keys(table).values()]


def retrieve(resolved: Resolved, store: TableStore) -> dict[str, Tensor]:
    """What the device holds now, under the checkpoint keys."""
    held = store.read()
    return {
        key: held[index][name]
        for index, table in enumerate(resolved.tables)
        for name, key in state_keys(table).items()
    }


def extra_state(resolved: Resolved) -> Tensor:
    """What the tensors do not say: format, tables, and which shard this is."""
    described = {
        "format": FORMAT_VERSION,
        "num_shards": 1,
        "shard": 0,
        "strategy": "mod",
        "tables": {
            table.name: {
                "vocabulary_size": table.vocabulary_size,
                "dim": table.dim,
                "optimizer": type(table.optimizer).__name__ if table.optimizer else None,
            }
            for table in resolved.tables
        },
    }
    text = json.dumps(described, sort_keys=True).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


@dataclass
class LoadPlan:
    """What a state_dict would change, and everything that is wrong with it."""

    values: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """Table → field → its new value."""
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
    resolved: Resolved, state: Mapping[str, Any], prefix: str, assign: bool = False
) -> LoadPlan:
    """Check the entries of `state` under `prefix` against the tables; nothing is changed."""
    plan = LoadPlan()
    if assign:
        plan.errors.append("assign=True is not possible: table values are copied; leave it False")
    extra = state.get(prefix + EXTRA_KEY)
    if extra is not None:
        plan.errors += _check_extra(extra)
    known = {prefix + EXTRA_KEY}
    for index, table in enumerate(resolved.tables):
        for name, key in state_keys(table).items():
            known.add(prefix + key)
            if prefix + key not in state:
                plan.missing.append(prefix + key)
                continue
            value = state[prefix + key]
            error = _check_value(prefix + key, value, [*field_shape(table, name)])
            if error:
                plan.errors.append(error)
            else:
                plan.values.setdefault(index, {})[name] = value.detach()
    plan.unexpected = [key for key in state if key.startswith(prefix) and key not in known]
    return plan


def _check_value(key: str, value: object, wanted: list[int]) -> str | None:
    if not isinstance(value, Tensor):
        return f"{key}: expected a tensor {wanted}, got {type(value).__name__}"
    if [*value.shape] != wanted:
        return f"{key}: expected shape {wanted} (vocabulary_size, width), got {[*value.shape]}"
    if value.dtype != torch.float32:
        return f"{key}: expected torch.float32, got {value.dtype}; convert it before loading"
    return None


def _check_extra(extra: object) -> list[str]:
    try:
        assert isinstance(extra, Tensor)
        described = json.loads(bytes(extra.to(torch.uint8).tolist()))
        version, shards = described["format"], described["num_shards"]
    except (AssertionError, ValueError, KeyError, TypeError, RuntimeError):
        return [
            f"{EXTRA_KEY}: not the description that state_dict() wrote; remove it to load anyway"
        ]
    if version != FORMAT_VERSION:
        return [f"{EXTRA_KEY}: format {version}, but this version reads {FORMAT_VERSION}"]
    if shards != 1:
        return [f"{EXTRA_KEY}: one shard of {shards}, but this process holds whole tables"]
    return []

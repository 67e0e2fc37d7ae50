"""The tables that are initialised on each device, so that a second TPUEmbedding can work on them."""

from __future__ import annotations

import weakref

import torch

from ..config.resolved import Resolved
from .engine import Engine

_Signature = tuple[object, object]
_built: list[tuple[torch.device, _Signature, weakref.ref[Engine]]] = []


def register(device: torch.device, resolved: Resolved, engine: Engine) -> None:
    """Remember the tables of an embedding for as long as one uses them."""
    _built[:] = [entry for entry in _built if entry[2]() is not None]
    _built.append((device, _signature(resolved), weakref.ref(engine)))


def find(device: torch.device, resolved: Resolved) -> Engine:
    """The tables initialised last on `device` for a configuration equal to this one.

    Raises:
        RuntimeError: there are none.
    """
    wanted = _signature(resolved)
    others = 0
    for where, signature, reference in reversed(_built):
        engine: Engine | None = reference()
        if engine is None or where != device:
            continue
        if signature == wanted:
            return engine
        others += 1
    found = (
        f"{others} with another configuration"
        if others
        else "none, for none was built or all are gone"
    )
    raise RuntimeError(
        f"TPUEmbedding(initialize_tpu_embedding=False): no tables of this configuration are "
        f"initialised on {device} (found {found}); build the one that owns them first, with the same "
        "feature_config and optimizers"
    )


def _signature(resolved: Resolved) -> _Signature:
    """The properties in which two configurations agree if they mean the same tables and features."""
    tables = tuple(
        (
            table.name,
            table.vocabulary_size,
            table.dim,
            table.combiner,
            table.optimizer.rule() if table.optimizer is not None else None,
            table.config.quantization_config,
            table.padding_row,
        )
        for table in resolved.tables
    )
    features = tuple(
        (feature.name, feature.table_index, feature.max_sequence_length, feature.output_shape)
        for feature in resolved.features
    )
    return tables, features

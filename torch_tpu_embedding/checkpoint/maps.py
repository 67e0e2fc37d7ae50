"""The maps of tables with a DynamicVocabulary in a checkpoint: in the extra file, beside the caller's part.

The file then holds a dict of two: under `MAPS` table → state of its map, and under 'value' the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..vocabularies.id_map import IdMap
from ..vocabularies.live import LiveVocabularies
from .errors import CheckpointError
from .format.extra import MAPS
from .rows import Shard

_ARRAYS = ("ids", "rows", "last_used", "count", "sketch")


def live_vocabularies(shard: Shard) -> LiveVocabularies | None:
    """The maps of an embedding; None if no table has one."""
    found: LiveVocabularies | None = getattr(shard, "vocabularies", None)
    return found


def with_maps(shard: Shard, extra: Any) -> Any:
    """The value for the extra file."""
    vocabularies = live_vocabularies(shard)
    if vocabularies is None:
        return extra
    maps = {}
    for table in vocabularies.maps:
        state = vocabularies.state(table)
        tensors = {name: torch.from_numpy(state[name]) for name in _ARRAYS}
        maps[shard.tables[table].name] = {**state, **tensors}
    return {MAPS: maps, "value": extra}


def maps_for(
    shard: Shard, sources: Sequence[tuple[int, str]], saved: Mapping[str, Any]
) -> dict[int, IdMap]:
    """The maps of the tables that a load fills.

    Args:
        sources: each table to fill, and its name in the checkpoint.
        saved: the maps of the checkpoint.

    Raises:
        CheckpointError: the map of a table is missing, or is none of it.
    """
    vocabularies = live_vocabularies(shard)
    if vocabularies is None:
        return {}
    made = {}
    for table, source in sources:
        if table in vocabularies.maps:
            if source not in saved:
                raise CheckpointError(f"table {source!r}: the checkpoint has no map of its ids")
            state = saved[source]
            try:
                arrays = {name: state[name].numpy() for name in _ARRAYS}
                made[table] = vocabularies.of_state(table, {**state, **arrays})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"table {source!r}: its map cannot be read ({error})"
                ) from error
    return made

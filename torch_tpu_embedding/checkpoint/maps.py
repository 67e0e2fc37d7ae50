"""The maps of tables with a DynamicVocabulary in a checkpoint: in the extra file, beside the caller's part.

The file then holds a dict of two: under `MAPS` table → states of the maps of all devices, and under 'value'
the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..vocabularies.id_maps.id_map import IdMap
from ..vocabularies.live import LiveVocabularies
from ..vocabularies.owners import local_units, owners
from ..vocabularies.saved_maps import Moves, SavedMaps, joined
from .errors import CheckpointError
from .format.extra import MAPS
from .format.index import TableEntry
from .reading.table_matching import is_numbered
from .rows import Shard

_ARRAYS = ("ids", "rows", "last_used", "count", "sketch")


@dataclass(frozen=True)
class LoadedMaps:
    """The maps of a table that a load fills, and the rows that it must bring elsewhere."""

    maps: list[IdMap]
    moves: Moves | None


def live_vocabularies(shard: Shard) -> LiveVocabularies | None:
    """The maps of an embedding; None if no table has one."""
    found: LiveVocabularies | None = getattr(shard, "vocabularies", None)
    return found


def with_maps(shard: Shard, extra: Any) -> Any:
    """The value for the extra file; a collective call if tables have maps."""
    vocabularies = live_vocabularies(shard)
    if vocabularies is None:
        return extra
    mine = {table: vocabularies.states(table) for table in vocabularies.maps}
    maps: dict[str, list[dict[str, Any]]] = {}
    for of_process in shard.group.gather_objects(mine):
        for table, parts in of_process.items():
            maps.setdefault(shard.tables[table].name, []).extend(map(_as_tensors, parts))
    return {MAPS: maps, "value": extra}


def maps_for(
    shard: Shard,
    sources: Sequence[tuple[int, str]],
    saved: Mapping[str, Any],
    entries: Mapping[str, TableEntry],
    resize: bool,
) -> dict[int, LoadedMaps]:
    """The maps of the tables that a load fills.

    Args:
        sources: each table to fill, and its name in the checkpoint.
        saved: the maps of the checkpoint.
        entries: its tables.
        resize: True to leave ids out for which there is no room.

    Raises:
        CheckpointError: the map of a table is missing, or is none of it.
        ValueError: the table was saved with row numbers as ids, for which a device here has no room.
    """
    vocabularies = live_vocabularies(shard)
    if vocabularies is None:
        return {}
    made: dict[int, LoadedMaps] = {}
    for table, source in sources:
        if table in vocabularies.maps:
            if is_numbered(shard.tables[table], entries[source]):
                made[table] = _of_numbers(vocabularies, shard, table, entries[source], resize)
                continue
            if source not in saved:
                raise CheckpointError(f"table {source!r}: the checkpoint has no map of its ids")
            try:
                parts = [_as_arrays(part) for part in saved[source]]
                maps = SavedMaps(entries[source].vocabulary_size, parts)
                size, rules = shard.tables[table].vocabulary_size, vocabularies.rules(table)
                made[table] = LoadedMaps(*maps.restored(vocabularies.placement, table, size, rules))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"table {source!r}: its map cannot be read ({error})"
                ) from error
    return made


def _of_numbers(
    vocabularies: LiveVocabularies, shard: Shard, table: int, entry: TableEntry, resize: bool
) -> LoadedMaps:
    """The maps of a table whose ids were row numbers when it was saved.

    Raises:
        ValueError: as `maps_for`.
    """
    config, placement = shard.tables[table], vocabularies.placement
    saved = SavedMaps.of_numbers(entry.vocabulary_size, config.config.padding_idx)
    size, rules = config.vocabulary_size, vocabularies.rules(table)
    maps, moves = saved.restored(placement, table, size, rules)
    here = np.isin(
        owners(saved.parts[0]["ids"], placement.num_devices), local_units(placement, table)
    )
    kept, wanted = sum(each.num_ids for each in maps), int(here.sum())
    if kept < wanted and not resize:
        raise ValueError(
            f"table {config.name!r}: the row numbers of the checkpoint become ids, which a hash shares "
            f"among {placement.num_devices} devices; those of this process have {wanted} of them and rows "
            f"for {kept}; give TableConfig more rows, or pass resize='allow' to leave the highest out"
        )
    return LoadedMaps(maps, moves)


def ids_and_rows(parts: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The ids that have rows of their own, and these, by the saved maps of a table."""
    whole = joined([_as_arrays(part) for part in parts])
    return whole["ids"], whole["rows"]


def ids_in_maps(parts: Sequence[Mapping[str, Any]]) -> int:
    """The number of ids that have rows of their own, by the saved maps of a table."""
    return sum(len(part["ids"]) for part in parts)


def _as_tensors(part: Mapping[str, Any]) -> dict[str, Any]:
    return {**part, **{name: torch.from_numpy(np.asarray(part[name])) for name in _ARRAYS}}


def _as_arrays(part: Mapping[str, Any]) -> dict[str, Any]:
    return {**part, **{name: part[name].numpy() for name in _ARRAYS}}

"""The maps from ids to rows in a save: each process writes those of its own rows, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ...distributed.placement import Placement
from ...vocabularies.id_maps.sketch import cells_a_row
from ...vocabularies.id_maps.snapshot import TableSnapshot
from ...vocabularies.live import LiveVocabularies
from ...vocabularies.owners import unit_rows
from ...vocabularies.saved_maps import MapHead
from ..format.map_columns import COLUMNS, DTYPES, map_fields
from ..rows import BLOCK_BYTES, Shard, TableBlock
from .file_plan import RowRange


@dataclass(frozen=True)
class MapsToSave:
    """The maps of tables with a DynamicVocabulary as they were when the save began."""

    snapshots: Mapping[int, TableSnapshot]
    """Table → its maps in this process."""
    heads: Mapping[int, MapHead]
    """Table → what the index says of its map."""

    def ranges(self, shard: Shard) -> dict[str, list[RowRange]]:
        """Field → its row ranges in this shard, in the order of tables."""
        ranges: dict[str, list[RowRange]] = {}
        for number, head in self.heads.items():
            table, ids = shard.tables[number], shard.ids(number)
            for field, width in map_fields(head).items():
                size = table.vocabulary_size
                each = RowRange(table.name, field, ids, len(ids), width, size, False, DTYPES[field])
                if ids:
                    ranges.setdefault(field, []).append(each)
        return ranges

    def blocks(self, shard: Shard) -> Iterator[TableBlock]:
        """The maps of every row held here, table by table, block by block."""
        for number, head in self.heads.items():
            rows, snapshot = len(shard.ids(number)), self.snapshots[number]
            behind = head.clock - snapshot.clock
            step = max(1, BLOCK_BYTES // (16 + head.cells))
            for start in range(0, rows, step):
                found = snapshot.read(start, min(start + step, rows), head.cells)
                found["last_used"] += behind * (found["count"] > 0)
                yield (
                    shard.tables[number].name,
                    {field: torch.from_numpy(found[COLUMNS[field]]) for field in map_fields(head)},
                )


def maps_to_save(shard: Shard, vocabularies: LiveVocabularies | None) -> MapsToSave:
    """The maps of an embedding as they are now; a collective call if there are any, of a few numbers a
    device.

    Args:
        vocabularies: None if no table has a map.
    """
    if vocabularies is None:
        return MapsToSave({}, {})
    snapshots = {table: vocabularies.snapshot(table) for table in vocabularies.maps}
    mine = {table: (each.clock, each.sightings) for table, each in snapshots.items()}
    of_all = shard.group.gather_objects(mine)
    placement, heads = vocabularies.placement, {}
    for table in snapshots:
        sightings = {u: n for each in of_all for u, n in each[table][1].items()}
        heads[table] = MapHead(
            max(each[table][0] for each in of_all),
            [sightings[unit] for unit in range(placement.num_devices)],
            placement.strategy,
            placement.num_shards,
            placement.local_devices,
            _cells(placement, shard.tables[table].vocabulary_size)
            if vocabularies.rules(table).admission > 1
            else 0,
        )
    return MapsToSave(snapshots, heads)


def _cells(placement: Placement, vocabulary: int) -> int:
    units = range(placement.num_devices)
    return cells_a_row(len(unit_rows(placement, vocabulary, unit)) for unit in units)

"""The maps of tables with a DynamicVocabulary that a load fills."""

from __future__ import annotations

from collections.abc import Sequence

from ..vocabularies.live import LiveVocabularies
from ..vocabularies.saved_maps import NumberedRows, Restored, restored
from .errors import CheckpointError
from .reading.reader import Reader
from .reading.table_matching import is_numbered
from .rows import Shard


def live_vocabularies(shard: Shard) -> LiveVocabularies | None:
    """The maps of an embedding; None if no table has one."""
    found: LiveVocabularies | None = getattr(shard, "vocabularies", None)
    return found


def maps_for(
    shard: Shard, sources: Sequence[tuple[int, str]], reader: Reader, resize: bool
) -> dict[int, Restored]:
    """The maps of the tables that a load fills.

    Args:
        sources: each table to fill, and its name in the checkpoint.
        resize: True to leave ids out for which there is no room.

    Raises:
        CheckpointError: the map of a table is missing, or is none of it.
        ValueError: the table was saved with row numbers as ids, for which a device here has no room.
    """
    vocabularies = live_vocabularies(shard)
    if vocabularies is None:
        return {}
    made: dict[int, Restored] = {}
    for table, source in sources:
        if table in vocabularies.maps:
            config, rules = shard.tables[table], vocabularies.rules(table)
            size, placement = config.vocabulary_size, vocabularies.placement
            if is_numbered(config, reader.tables[source]):
                rows = reader.tables[source].vocabulary_size
                numbers = NumberedRows(rows, config.config.padding_idx)
                made[table] = restored(numbers, placement, table, size, rules)
                _require_room(made[table], shard, table, resize, placement.num_devices)
                continue
            saved = reader.map(source)
            if saved is None:
                raise CheckpointError(f"table {source!r}: the checkpoint has no map of its ids")
            try:
                made[table] = restored(saved, placement, table, size, rules)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"table {source!r}: its map cannot be read ({error})"
                ) from error
    return made


def _require_room(found: Restored, shard: Shard, table: int, resize: bool, devices: int) -> None:
    """Raise ValueError where ids that were row numbers have no row."""
    if found.left_out and not resize:
        kept = sum(each.num_ids for each in found.maps)
        raise ValueError(
            f"table {shard.tables[table].name!r}: the row numbers of the checkpoint become ids, which a "
            f"hash shares among {devices} devices; those of this process have {kept + found.left_out} of "
            f"them and rows for {kept}; give TableConfig more rows, or pass resize='allow' to leave the "
            "highest out"
        )

"""The map from ids to rows of a table with a DynamicVocabulary, as fields beside those of its rows.

Each is an array over the rows of the table: what a row's id is, when it was last used and how often, 0
times if the row has no id. The sketches that count ids without a row are dealt to rows, too, some cells to
each, device by device. The rest of the map, which is not row by row, is in the table's entry of the index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...distributed.placement import STRATEGIES
from ...io.json_checks import fields, integer, list_of, one_of
from ...vocabularies.saved_maps import MapHead

IDS_OF_ROWS, LAST_USED, COUNT = "vocabulary_ids", "vocabulary_last_used", "vocabulary_count"
SKETCH = "vocabulary_sketch"
DTYPES = {IDS_OF_ROWS: "I64", LAST_USED: "I32", COUNT: "I32", SKETCH: "U8"}
"""The fields of a map, and the dtypes of their tensors. Only a sketch has two dimensions."""
COLUMNS = {IDS_OF_ROWS: "ids", LAST_USED: "last_used", COUNT: "count", SKETCH: "sketch"}
"""The fields of a map, and their names where maps are made."""

check_map = fields(
    {
        "clock": integer(0),
        "sightings": list_of(integer(0)),
        "strategy": one_of(*STRATEGIES),
        "num_shards": integer(1),
        "devices": integer(1),
        "cells": integer(0),
    }
)


def map_fields(head: MapHead | None) -> dict[str, int]:
    """The fields of a table's map, and their numbers a row, 0 for a vector; none without a map."""
    if head is None:
        return {}
    fields_of_map = {IDS_OF_ROWS: 0, LAST_USED: 0, COUNT: 0}
    return {**fields_of_map, SKETCH: head.cells} if head.cells else fields_of_map


def head_to_json(head: MapHead) -> dict[str, Any]:
    """The entry that `head_from_json` reads."""
    return {**vars(head), "sightings": [*head.sightings]}


def head_from_json(described: Mapping[str, Any] | None) -> MapHead | None:
    """The head that a parsed JSON value, already checked, describes; None if there is none."""
    if described is None:
        return None
    names = ("clock", "sightings", "strategy", "num_shards", "devices", "cells")
    return MapHead(**{name: described[name] for name in names})

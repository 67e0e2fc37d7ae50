"""The JSON of a checkpoint, entry by entry: a step's index, a process's manifest, a file's header.

Checked whole before anything is taken from it. Names that are not listed are no fault, for a later version
of the same format may add some. Letter: V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...distributed.placement import STRATEGIES
from ...io.json_checks import (
    Check,
    all_of,
    fields,
    integer,
    list_of,
    mapping,
    matching,
    nullable,
    one_of,
    plain,
    shown,
    text,
)
from .map_columns import check_map

_COUNT, _SIZE = integer(0), integer(1)
_OPTION_DEPTH = 8


def _file_name(value: Any, where: str) -> None:
    if not isinstance(value, str) or not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(f"{where}: file name {shown(value)} leaves the directory")


_TABLE = fields(
    {
        "name": text,
        "vocabulary_size": _SIZE,
        "dim": _SIZE,
        "fields": mapping(text, _SIZE),
        "optimizer": nullable(all_of(fields({"class": text}), plain(_OPTION_DEPTH))),
    },
    {
        "dtype": one_of("float32", "bfloat16"),
        "slot_dtype": one_of("float32", "bfloat16"),
        "vocabulary": all_of(fields({"class": text}), plain(_OPTION_DEPTH)),
        "map": check_map,
    },
)
_PIECE = fields(
    {
        "file": _file_name,
        "key": text,
        "table": text,
        "field": text,
        "first_id": _COUNT,
        "id_step": _SIZE,
        "rows": _SIZE,
    },
    {"start": _COUNT, "shard_rows": _SIZE},
)
_FILE = fields({"bytes": _COUNT, "sha256": matching("[0-9a-f]{64}", "a SHA-256 in hex")})
_FILES = mapping(_file_name, _FILE)

check_manifest: Check = fields({"pieces": list_of(_PIECE), "files": _FILES})
"""The manifest of a process: the pieces and files that it wrote for a save."""

check_index: Check = fields(
    {
        "metadata": fields({}),
        "weight_map": mapping(text, text),
        "checkpoint": fields(
            {
                "step": _COUNT,
                "save_id": text,
                "strategy": one_of(*STRATEGIES),
                "num_shards": _SIZE,
                "base": nullable(fields({"step": _COUNT, "save_id": text})),
                "tables": mapping(text, _TABLE),
                "files": _FILES,
                "pieces": list_of(_PIECE),
                "extra": nullable(_file_name),
            },
            {"updates": _COUNT},
        ),
    }
)
"""The index without its hash."""

check_header: Check = mapping(
    text,
    fields(
        {"dtype": text, "shape": list_of(_COUNT), "data_offsets": list_of(_COUNT, 2)},
    ),
)
"""The header of a safetensors file without its metadata."""


def check_table(described: Mapping[str, Any]) -> None:
    """Check a table's entry before it goes into an index.

    Raises:
        ValueError: no reader would take the entry.
    """
    _TABLE(described, f"table {described['name']!r}")

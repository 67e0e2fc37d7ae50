"""Tables with a DynamicVocabulary in the order of ids, for formats whose row i is id i.

Letter: N ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...config.vocabulary import DynamicVocabulary, vocabulary_from_dict
from ...vocabularies.row_hash import shared_rows_of_array
from ..errors import CheckpointError
from ..format.index import TableEntry
from ..maps import ids_and_rows
from ..reading.reader import Reader
from ..rows import block_rows

Order = NDArray[np.int64]


def orders_by_id(reader: Reader, tables: Sequence[str], sizes: Sequence[str]) -> dict[str, Order]:
    """Table with a DynamicVocabulary → for each of the ids 0 … N-1 its row, as inference finds it.

    Args:
        tables: those to be written.
        sizes: NAME=N, for those tables that shall not have as many ids as there are rows for ids.

    Raises:
        ValueError: a table has a HashedVocabulary, or an id that is not in 0 … N-1; or a size is wrong.
        CheckpointError: the map of a table is missing.
    """
    vocabularies = {name: vocabulary_from_dict(reader.tables[name].vocabulary) for name in tables}
    dynamic = {name: v for name, v in vocabularies.items() if isinstance(v, DynamicVocabulary)}
    if found := [name for name, v in vocabularies.items() if v and name not in dynamic]:
        raise ValueError(
            f"tables {found} find the rows of ids by a vocabulary, which TensorFlow's format does not "
            "hold; name the others with --tables"
        )
    wanted = _sizes(sizes, dynamic)
    maps = reader.maps() if dynamic else {}
    orders = {}
    for name, vocabulary in dynamic.items():
        entry = reader.tables[name]
        if name not in maps:
            raise CheckpointError(f"table {name!r}: the checkpoint has no map of its ids")
        count = wanted.get(name, entry.vocabulary_size - vocabulary.oov_rows)
        orders[name] = _order(entry, maps[name], count, vocabulary.oov_rows)
    return orders


def blocks_by_id(
    reader: Reader, table: str, field: str, order: Order | None
) -> Iterator[NDArray[np.float32]]:
    """The rows of a field, block by block.

    Args:
        order: the rows to read; None for all as they lie. With an order the field is read whole, for rows
            that follow each other may lie anywhere.
    """
    entry = reader.tables[table]
    step = block_rows({field: entry.fields[field]})
    if order is not None:
        whole = reader.read(table, field, 0, entry.vocabulary_size).numpy()
        for start in range(0, len(order), step):
            yield whole[order[start : start + step]]
        return
    for start in range(0, entry.vocabulary_size, step):
        yield reader.read(table, field, start, min(start + step, entry.vocabulary_size)).numpy()


def _order(
    entry: TableEntry, parts: Sequence[Mapping[str, Any]], count: int, oov_rows: int
) -> Order:
    ids, rows = ids_and_rows(parts)
    outside = np.sort(ids[(ids < 0) | (ids >= count)])
    if len(outside):
        numbered = outside[0] >= 0 and outside[-1] < 1 << 31
        larger = f"give --rows {entry.name}={outside[-1] + 1}, " if numbered else ""
        raise ValueError(
            f"table {entry.name!r}: id {outside[0]} has a row ({len(outside)} of {len(ids)} ids are like "
            f"it), but TensorFlow's row i is id i, here 0 … {count - 1}; {larger}leave the table out by "
            "naming the others with --tables, or serve it with its map by export_serving"
        )
    order = shared_rows_of_array(np.arange(count), oov_rows).astype(np.int64)
    order[ids] = rows
    return order


def _sizes(pairs: Sequence[str], dynamic: Mapping[str, DynamicVocabulary]) -> dict[str, int]:
    """Table → N, of NAME=N."""
    found = {}
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        if name not in dynamic or not number.isdecimal() or int(number) < 1:
            raise ValueError(
                f"--rows: expected NAME=N with N of at least 1, and one of the tables with a "
                f"DynamicVocabulary, {[*dynamic]}, got {pair!r}"
            )
        found[name] = int(number)
    return found

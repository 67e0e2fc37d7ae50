"""Tables with a DynamicVocabulary in the order of ids, for formats whose row i is id i.

Letter: N ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...config.vocabulary import DynamicVocabulary, vocabulary_from_dict
from ...vocabularies.row_hash import shared_rows_of_array
from ...vocabularies.saved_maps import SavedMap, blocks
from ..errors import CheckpointError
from ..format.index import TableEntry
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
    orders = {}
    for name, vocabulary in dynamic.items():
        entry = reader.tables[name]
        saved = reader.map(name)
        if saved is None:
            raise CheckpointError(f"table {name!r}: the checkpoint has no map of its ids")
        count = wanted.get(name, entry.vocabulary_size - vocabulary.oov_rows)
        orders[name] = _order(entry, saved, count, vocabulary.oov_rows)
    return orders


def blocks_by_id(
    reader: Reader, table: str, field: str, order: Order | None
) -> Iterator[NDArray[np.float32]]:
    """The rows of a field, block by block.

    Args:
        order: the rows to read, which may lie anywhere; None for all as they lie.
    """
    entry = reader.tables[table]
    step = block_rows({field: entry.fields[field]})
    if order is not None:
        for start in range(0, len(order), step):
            rising, back = np.unique(order[start : start + step], return_inverse=True)
            yield reader.read_rows(table, field, rising)[back]
        return
    for start in range(0, entry.vocabulary_size, step):
        yield reader.read(table, field, start, min(start + step, entry.vocabulary_size)).numpy()


def _order(entry: TableEntry, saved: SavedMap, count: int, oov_rows: int) -> Order:
    order = shared_rows_of_array(np.arange(count), oov_rows).astype(np.int64)
    outside, least, most, found = 0, 0, 0, 0
    for block in blocks(saved, range(saved.vocabulary)):
        ids, rows = block["ids"], block["rows"]
        found += len(ids)
        inside = (ids >= 0) & (ids < count)
        if not inside.all():
            beyond = ids[~inside]
            least = min(least, int(beyond.min())) if outside else int(beyond.min())
            most = max(most, int(beyond.max())) if outside else int(beyond.max())
            outside += len(beyond)
        order[ids[inside]] = rows[inside]
    if outside:
        numbered = least >= 0 and most < 1 << 31
        larger = f"give --rows {entry.name}={most + 1}, " if numbered else ""
        raise ValueError(
            f"table {entry.name!r}: id {least} has a row ({outside} of {found} ids are like "
            f"it), but TensorFlow's row i is id i, here 0 … {count - 1}; {larger}leave the table out by "
            "naming the others with --tables, or serve it with its map by export_serving"
        )
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

"""The values that an update of a map has changed, so that it can be taken back.

Letters: n places, or ids; V rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .id_index import IdIndex, Ids, Rows

_Places = NDArray[np.integer[Any]] | EllipsisType


class Journal:
    """The values of arrays before an update, and the ids that it took rows from.

    Args:
        clock: of the map.
        num_free: the number of its free rows.
        sightings: of its sketch.
    """

    def __init__(self, clock: int, num_free: int, sightings: int) -> None:
        self.clock = clock
        self.num_free = num_free
        self.sightings = sightings
        self.removed: list[tuple[Ids, Rows]] = []
        """Ids that lost their rows, and these."""
        self.given: Rows = np.empty(0, np.int32)
        """Rows that ids were given."""
        self._values: list[tuple[NDArray[Any], _Places, NDArray[Any]]] = []

    def keep(self, array: NDArray[Any], places: _Places) -> NDArray[Any]:
        """Note the values of an array before they change; gives them.

        Args:
            places: `[n]`, or ... for all of it.
        """
        values = array.copy() if isinstance(places, EllipsisType) else array.take(places)
        self._values.append((array, places, values))
        return values

    def restore(self) -> None:
        """Give the arrays their values again."""
        for array, places, values in reversed(self._values):
            array[places] = values


def ids_before(index: IdIndex, journals: Sequence[Journal]) -> tuple[Rows, Ids]:
    """The rows `[n]`, rising, that had an id before some updates, and their ids.

    Args:
        journals: of the last updates of the index, the latest first.
    """
    has_id = index.has_id().copy()
    ids = np.zeros(len(has_id), np.int64)
    rows = np.flatnonzero(has_id).astype(np.int32)
    ids[rows] = index.ids_of(rows)
    for journal in journals:
        has_id[journal.given] = False
        for removed, of_rows in journal.removed:
            ids[of_rows], has_id[of_rows] = removed, True
    rows = np.flatnonzero(has_id).astype(np.int32)
    return rows, ids[rows]


@contextmanager
def values_before(arrays: Sequence[NDArray[Any]], journals: Sequence[Journal]) -> Iterator[None]:
    """Gives arrays the values that they had before some updates, for as long as the context lasts.

    Args:
        arrays: all that the updates have changed.
        journals: of the last updates, the latest first.
    """
    now = [each.copy() for each in arrays] if journals else []
    try:
        for journal in journals:
            journal.restore()
        yield
    finally:
        for array, values in zip(arrays, now, strict=False):
            array[...] = values

"""The values that an update of a map has changed, so that it can be taken back.

Letter: n places.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .id_index import Ids, Rows

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

    def changes(self, array: NDArray[Any]) -> Iterator[tuple[_Places, NDArray[Any]]]:
        """The places of an array that changed and what was there before, the latest change first."""
        for changed, places, values in reversed(self._values):
            if changed is array:
                yield places, values

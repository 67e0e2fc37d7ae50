"""How often ids were seen, to within a bound, in a fixed amount of memory.

Letters: n ids, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .journal import Journal

MOST_COUNTED = 255
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SIGHTINGS_A_CELL = 4


class CountMinSketch:
    """A count-min sketch with conservative update (Cormode, Muthukrishnan 2005; Estan, Varghese 2002).

    A count is never too low, and too high only where an id meets others in both of its cells. Once there
    were more sightings than 4 W all counts are halved, so that ids of long ago make room.

    Args:
        width: W, cells of a byte in each of two rows.
    """

    def __init__(self, width: int) -> None:
        self.cells = np.zeros((len(_FACTORS), width), np.uint8)
        self._flat = self.cells.reshape(-1)
        self.sightings = 0

    def add(
        self, ids: NDArray[np.int64], times: NDArray[np.int64], journal: Journal | None = None
    ) -> NDArray[np.int64]:
        """Count sightings of ids; gives how often each was seen, these included, 255 at the most.

        Args:
            ids: `[n]`, each once.
            times: `[n]`, the sightings of each.
            journal: takes note of what changes.
        """
        width = self.cells.shape[1]
        places = [self._places(ids, factor, width) for factor in _FACTORS]
        seen = np.minimum(*(row[at] for row, at in zip(self.cells, places, strict=True)))
        counts = np.minimum(seen + times, MOST_COUNTED)
        for number, at in enumerate(places):
            if journal is not None:
                journal.keep(self._flat, at + number * width)
            np.maximum.at(self.cells[number], at, counts.astype(np.uint8))
        self.sightings += int(times.sum())
        if self.sightings > _SIGHTINGS_A_CELL * width:
            if journal is not None:
                journal.keep(self._flat, ...)
            self.cells >>= 1
            self.sightings //= 2
        return counts

    def cells_before(self, journals: Sequence[Journal]) -> NDArray[np.uint8]:
        """A copy of the cells as they were before some updates.

        Args:
            journals: of the last updates, the latest first.
        """
        flat = self._flat.copy()
        for journal in journals:
            for places, values in journal.changes(self._flat):
                flat[places] = values
        return flat.reshape(self.cells.shape)

    @staticmethod
    def _places(ids: NDArray[np.int64], factor: np.uint64, width: int) -> NDArray[np.int64]:
        h = ids.view(np.uint64) * factor
        h ^= h >> np.uint64(32)
        h *= factor
        h >>= np.uint64(32)
        h *= np.uint64(width)
        return (h >> np.uint64(32)).view(np.int64)


def sketch_width(num_rows: int) -> int:
    """W of the sketch of a map of so many rows."""
    return max(num_rows, 1024)


def cells_a_row(rows_of_maps: Iterable[int]) -> int:
    """The most cells that a row of any of some maps must take if each map deals those of its sketch to its
    rows.

    Args:
        rows_of_maps: the number of rows of each map; those without any are passed over.
    """
    return max(-(-2 * sketch_width(rows) // rows) for rows in rows_of_maps if rows)

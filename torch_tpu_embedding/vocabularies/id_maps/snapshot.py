"""The maps of a table as they were at one moment, read part by part while training goes on.

Letters: P devices of this process, n rows.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .earlier import EarlierMap
from .journal import Journal


class TableSnapshot:
    """The maps of the P devices of this process for one table.

    Args:
        maps: one a device, in the order of devices.
        units: the number of each device among all.
        offsets: of the rows of this process, counted in order, the first that each map has; it has every
            P-th from there on.
        lock: held while the maps change.
    """

    def __init__(
        self,
        maps: Sequence[EarlierMap],
        units: Sequence[int],
        offsets: Sequence[int],
        lock: threading.Lock,
    ) -> None:
        self.clock = maps[0].clock
        """The clock of the maps, which see the same batches."""
        self.sightings = {unit: each.sightings for unit, each in zip(units, maps, strict=True)}
        """The number of each device → the sightings of its sketch."""
        self._maps, self._offsets, self._lock = maps, offsets, lock

    def note(self, journals: Sequence[Journal]) -> None:
        """Take note of an update of each map, which was the last one; the lock is held."""
        for each, journal in zip(self._maps, journals, strict=True):
            each.changed.note(journal)

    def read(self, start: int, stop: int, cells: int) -> dict[str, NDArray[Any]]:
        """Rows start … stop-1 of this process: field → `[n]`, as `EarlierMap.part` gives them, and under
        'sketch' uint8 `[n, cells]`, the cells of each map's sketch dealt to its rows one after another.

        Args:
            cells: a row; 0 leaves the sketches out.
        """
        size, every = stop - start, len(self._maps)
        found: dict[str, NDArray[Any]] = {
            "ids": np.zeros(size, np.int64),
            "last_used": np.zeros(size, np.int32),
            "count": np.zeros(size, np.int32),
        }
        if cells:
            found["sketch"] = np.zeros((size, cells), np.uint8)
        for each, offset in zip(self._maps, self._offsets, strict=True):
            first = (offset - start) % every
            begin = (start + first - offset) // every
            end = begin + len(range(first, size, every))
            if begin == end:
                continue
            with self._lock:
                part = each.part(begin, end)
            for name, values in part.items():
                found[name][first::every] = values
            if cells:
                flat = each.sketch.reshape(-1)[begin * cells : end * cells]
                whole = np.zeros((end - begin) * cells, np.uint8)
                whole[: len(flat)] = flat
                found["sketch"][first::every] = whole.reshape(end - begin, cells)
        return found

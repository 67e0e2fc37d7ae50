"""A map as it was before some updates, read part by part while the map goes on.

Letters: V rows of the map, n rows that have changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .id_index import IdIndex, Ids
from .journal import Journal
from .uses import Packed, UseForm

_Some = tuple[Ids, NDArray[np.bool_], Packed]


class EarlierRows:
    """The ids and uses of V rows before some updates. Nothing is copied but the rows that changed since.

    Not for use beside an update; `note` must be told of each one that comes after.

    Args:
        index: of the map.
        uses: `[V]`, of the map.
        journals: of the last updates, the latest first: before all of these.
        without: ids to pass over.
    """

    def __init__(
        self, index: IdIndex, uses: Packed, journals: Sequence[Journal], without: Ids
    ) -> None:
        self._index, self._uses = index, uses
        rows = np.concatenate([index.find(without), *map(self._touched, journals)])
        self._rows = np.unique(rows[rows >= 0])
        self._ids, self._has_id, self._values = self._before(self._rows, journals)
        self._has_id &= ~np.isin(self._ids, without)

    def read(self, start: int, stop: int) -> _Some:
        """Rows start … stop-1: the id of each that had one, which had one, and the uses."""
        ids, has_id = self._index.part(start, stop)
        values = self._uses[start:stop].copy()
        changed = slice(*np.searchsorted(self._rows, [start, stop]).tolist())
        at = self._rows[changed] - start
        ids[at], has_id[at], values[at] = (
            each[changed] for each in (self._ids, self._has_id, self._values)
        )
        return ids, has_id, values

    def note(self, journal: Journal) -> None:
        """Keep what an update has changed, which was the last one."""
        rows = np.setdiff1d(self._touched(journal), self._rows)
        found = self._before(rows, [journal])
        order = np.argsort(np.concatenate([self._rows, rows]))
        self._rows = np.concatenate([self._rows, rows])[order]
        self._ids, self._has_id, self._values = (
            np.concatenate(pair)[order]
            for pair in zip((self._ids, self._has_id, self._values), found, strict=True)
        )

    def _touched(self, journal: Journal) -> NDArray[np.int64]:
        parts: list[NDArray[Any]] = [journal.given, *(rows for _, rows in journal.removed)]
        parts += [np.asarray(places) for places, _ in journal.changes(self._uses)]
        return np.concatenate(parts).astype(np.int64)

    def _before(self, rows: NDArray[np.int64], journals: Sequence[Journal]) -> _Some:
        """Some rows, rising, before updates of which each is noted, the latest first."""
        ids, has_id = self._index.ids_of(rows), self._index.have_ids(rows)
        uses = self._uses.take(rows)
        for journal in journals:
            for places, values in journal.changes(self._uses):
                _put(uses, rows, np.asarray(places), values)
            _put(has_id, rows, journal.given, np.zeros(len(journal.given), np.bool_))
            for removed, of_rows in journal.removed:
                _put(ids, rows, of_rows, removed)
                _put(has_id, rows, of_rows, np.ones(len(of_rows), np.bool_))
        return ids, has_id, uses


@dataclass(frozen=True)
class EarlierMap:
    """A map before some updates."""

    changed: EarlierRows
    form: UseForm
    rows: range
    """The rows of the table that the map has."""
    clock: int
    sightings: int
    sketch: NDArray[np.uint8]
    """The cells of its sketch; empty without one."""

    def part(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """The map's rows start … stop-1: 'ids' int64, 'last_used' and 'count' int32; 0 for a row without an
        id, whose count tells it from all others."""
        ids, has_id, packed = self.changed.read(start, stop)
        packed *= has_id
        ids *= has_id
        return {
            "ids": ids,
            "last_used": self.form.last_used(packed).astype(np.int32),
            "count": self.form.count(packed).astype(np.int32),
        }

    def state(self) -> dict[str, Any]:
        """All of it, as `IdMap.state` gives it."""
        columns = self.part(0, len(self.rows))
        found = np.flatnonzero(columns["count"])
        return {
            **{name: column.take(found) for name, column in columns.items()},
            "rows": found * self.rows.step + self.rows.start,
            "clock": self.clock,
            "sightings": self.sightings,
            "sketch": self.sketch,
        }


def _put(
    array: NDArray[Any], rows: NDArray[np.int64], some: NDArray[Any], values: NDArray[Any]
) -> None:
    """Set the values of those of some rows that are among rising ones, whose values are in the array."""
    at = np.searchsorted(rows, some)
    here = np.flatnonzero(at < len(rows))
    here = here[rows[at[here]] == some[here]]
    array[at[here]] = values[here]

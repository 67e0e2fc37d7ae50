"""The map from ids to rows of a table in a step, read by rows.

Letters: V vocabulary (rows), n rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...vocabularies.id_maps.sketch import cells_a_row
from ...vocabularies.saved_maps import MapHead, joined
from ..format.index import TableEntry
from ..format.map_columns import COLUMNS, COUNT, IDS_OF_ROWS, LAST_USED, SKETCH
from .step_reader import StepFiles

_DTYPES = {"ids": np.int64, "last_used": np.int32, "count": np.int32}


class MapOfRows:
    """A map whose fields lie beside those of the rows.

    Args:
        step: the step itself; what it stands on does not count, for a delta has its map whole.
        entry: of the table.
    """

    def __init__(self, step: StepFiles, entry: TableEntry) -> None:
        assert entry.map is not None
        self.vocabulary, self.head = entry.vocabulary_size, entry.map
        self._step, self._table = step, entry.name

    def read(self, rows: range) -> dict[str, NDArray[Any]]:
        """As `SavedMap.read`."""
        found = {}
        for field in (IDS_OF_ROWS, LAST_USED, COUNT):
            name = COLUMNS[field]
            found[name] = np.zeros(len(rows), _DTYPES[name])
            self._step.read_into(found[name], self._table, field, rows)
        return found

    def read_sketch(self, rows: range) -> NDArray[np.uint8]:
        """As `SavedMap.read_sketch`."""
        cells = np.zeros((len(rows), self.head.cells), np.uint8)
        if self.head.cells:
            self._step.read_into(cells, self._table, SKETCH, rows)
        return cells


class MapInExtra:
    """A map in the extra file, where earlier versions put it whole.

    Args:
        entry: of the table.
        parts: the states of the maps of all devices, with the number of each one's 'unit'.
        num_shards: of the step.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, IndexError: they are none.
    """

    def __init__(
        self, entry: TableEntry, parts: Sequence[Mapping[str, Any]], num_shards: int
    ) -> None:
        self.vocabulary = entry.vocabulary_size
        arrays = ("ids", "rows", "last_used", "count", "sketch")
        states = [{**part, **{name: part[name].numpy() for name in arrays}} for part in parts]
        by_unit = {part["unit"]: part for part in states}
        if not states or sorted(by_unit) != [*range(len(states))]:
            raise ValueError("the maps of some devices are missing")
        whole = joined(states)
        rows = whole["rows"]
        lengths = {len(whole[name]) for name in ("ids", "rows", "last_used", "count")}
        if len(lengths) > 1 or len(np.unique(rows)) < len(rows) or (whole["count"] < 1).any():
            raise ValueError("ids, rows and ages do not fit one another")
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.vocabulary:
            raise ValueError("rows that the table has not")
        self._columns = {name: np.zeros(self.vocabulary, dtype) for name, dtype in _DTYPES.items()}
        for name, column in self._columns.items():
            column[rows] = whole[name]
        self.head = self._head(by_unit, whole["clock"], num_shards)

    def read(self, rows: range) -> dict[str, NDArray[Any]]:
        """As `SavedMap.read`."""
        some = slice(rows.start, rows.stop, rows.step)
        return {name: column[some] for name, column in self._columns.items()}

    def read_sketch(self, rows: range) -> NDArray[np.uint8]:
        """As `SavedMap.read_sketch`."""
        return self._cells[rows.start : rows.stop : rows.step]

    def _head(
        self, by_unit: Mapping[int, Mapping[str, Any]], clock: int, num_shards: int
    ) -> MapHead:
        """The head, and the sketches dealt to rows as newer versions do it."""
        count = len(by_unit)
        shards = num_shards if count % num_shards == 0 else count
        sightings = [int(by_unit[unit]["sightings"]) for unit in range(count)]
        strategy = by_unit[0]["strategy"]
        units = MapHead(clock, sightings, strategy, shards, count // shards, 0).unit_rows(
            self.vocabulary
        )
        has_sketch = by_unit[0]["sketch"].size > 0
        cells = cells_a_row(len(each) for each in units) if has_sketch else 0
        self._cells = np.zeros((self.vocabulary, cells), np.uint8)
        for unit, rows in enumerate(units if cells else []):
            flat = by_unit[unit]["sketch"].reshape(-1)
            mine = np.zeros(len(rows) * cells, np.uint8)
            mine[: len(flat)] = flat[: len(mine)]
            self._cells[rows.start : rows.stop : rows.step] = mine.reshape(-1, cells)
        return MapHead(clock, sightings, strategy, shards, count // shards, cells)

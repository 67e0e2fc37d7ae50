"""Maps of a table out of a saved state: as they were, or for other devices or another number of rows.

Letters: V vocabulary (rows), G devices, n ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..distributed.placement import Placement, Strategy
from .id_maps.id_map import IdMap, MapRules
from .id_maps.sketch import sketch_width
from .owners import local_units, owners, unit_rows

_COLUMNS = ("ids", "rows", "last_used", "count")
_BLOCK_ROWS = 1 << 19


@dataclass(frozen=True)
class Moves:
    """Rows that come to lie elsewhere: their ids have other rows now."""

    sources: NDArray[np.int64]
    """`[n]`: rows of the saved table, rising."""
    targets: NDArray[np.int64]
    """`[n]`: the rows of the table that they become."""


@dataclass(frozen=True)
class MapHead:
    """The part of a saved map that is not row by row."""

    clock: int
    """The number of training batches that it has seen."""
    sightings: Sequence[int]
    """The sightings of the sketch of each of the G devices."""
    strategy: Strategy
    num_shards: int
    """The number of processes, by whose placement the rows of a device are known."""
    devices: int
    """The number of devices of a process."""
    cells: int
    """The cells of sketches that lie with a row; 0 if there are no sketches."""

    def unit_rows(self, vocabulary: int) -> list[range]:
        """The rows of each of the G devices, of a table of V rows."""
        placement = Placement(self.strategy, self.num_shards, 0, self.devices)
        return [unit_rows(placement, vocabulary, unit) for unit in range(placement.num_devices)]


class SavedMap(Protocol):
    """The saved map of a table, read by its rows."""

    @property
    def vocabulary(self) -> int:
        """V when it was saved."""

    @property
    def head(self) -> MapHead | None:
        """Its other part; None if ids were row numbers, of which none is shared."""

    def read(self, rows: range) -> dict[str, NDArray[Any]]:
        """Some rows of the table: 'ids' int64, 'last_used' and 'count' int32 `[n]`, whose count is 0 for a
        row without an id."""

    def read_sketch(self, rows: range) -> NDArray[np.uint8]:
        """The cells `[n, head.cells]` that lie with some rows."""


@dataclass(frozen=True)
class NumberedRows:
    """A table without a vocabulary as a map: its row numbers are ids, each used once, just now.

    Args:
        vocabulary: V when it was saved.
        padding_idx: a row number that is no id.
    """

    vocabulary: int
    padding_idx: int | None
    head: None = None

    def read(self, rows: range) -> dict[str, NDArray[Any]]:
        """As `SavedMap.read`."""
        ids = np.arange(rows.start, rows.stop, rows.step)
        never = np.zeros(len(ids), np.int32)
        return {"ids": ids, "last_used": never, "count": (ids != self.padding_idx).astype(np.int32)}

    def read_sketch(self, rows: range) -> NDArray[np.uint8]:
        """There is none."""
        return np.zeros((len(rows), 0), np.uint8)


def blocks(saved: SavedMap, rows: range) -> Iterator[dict[str, NDArray[Any]]]:
    """The ids that have one of some rows, block by block: 'ids', 'last_used', 'count' and 'rows' `[n]`."""
    for start in range(0, len(rows), _BLOCK_ROWS):
        some = rows[start : start + _BLOCK_ROWS]
        part = saved.read(some)
        found = np.flatnonzero(part["count"])
        own = {name: part[name].take(found) for name in ("ids", "last_used", "count")}
        yield {**own, "rows": found * some.step + some.start}


@dataclass(frozen=True)
class Restored:
    """The maps of a table for the devices of this process."""

    maps: list[IdMap]
    moves: Moves | None
    """The rows that must move; None if none does."""
    left_out: int
    """The number of ids of these devices for which there was no row."""


def restored(
    saved: SavedMap, placement: Placement, table: int, vocabulary: int, rules: MapRules
) -> Restored:
    """The maps of the devices of this process out of a saved one.

    Of more ids than there are rows now, those used least, by the rule of eviction, are left out. In memory
    is what these maps hold, and a block of the saved one.

    Args:
        table: the position of the table.
        vocabulary: V now.

    Raises:
        ValueError: it is no map from ids to rows.
    """
    units = local_units(placement, table)
    rows = [unit_rows(placement, vocabulary, unit) for unit in range(placement.num_devices)]
    if saved.head is not None:
        before = saved.head.unit_rows(saved.vocabulary)
        if len(before) == len(rows) and all(
            now[: len(then)] == then for now, then in zip(rows, before, strict=True)
        ):
            made = [IdMap.of_state(rows[u], rules, _state(saved, u, before[u])) for u in units]
            return Restored(made, None, 0)
    shared = min(vocabulary, rules.oov_rows)
    return _moved(saved, units, rows, rules, 0 if saved.head is None else shared)


def _state(saved: SavedMap, unit: int, rows: range) -> dict[str, Any]:
    """The state of the map of a device that has these rows."""
    assert saved.head is not None
    sketch, cells = np.zeros((2, 0), np.uint8), saved.head.cells
    if cells:
        width = sketch_width(len(rows))
        steps = range(0, len(rows), _BLOCK_ROWS)
        parts = [saved.read_sketch(rows[at : at + _BLOCK_ROWS]).reshape(-1) for at in steps]
        flat = np.concatenate([*parts, np.zeros(0, np.uint8)])[: 2 * width]
        sketch = flat.reshape(2, width) if len(flat) == 2 * width else sketch
    head = {"clock": saved.head.clock, "sightings": saved.head.sightings[unit], "sketch": sketch}
    return _gathered([*blocks(saved, rows)]) | head


def _moved(
    saved: SavedMap, units: Sequence[int], rows: Sequence[range], rules: MapRules, shared: int
) -> Restored:
    parts: dict[int, list[dict[str, NDArray[Any]]]] = {unit: [] for unit in units}
    for block in blocks(saved, range(saved.vocabulary)):
        of = owners(block["ids"], len(rows))
        for unit, found in parts.items():
            here = np.flatnonzero(of == unit)
            found.append({name: column.take(here) for name, column in block.items()})
    clock = 0 if saved.head is None else saved.head.clock
    made, sources, targets, left_out = [], [], [], 0
    for unit in units:
        of_unit, mine = rows[unit], _gathered(parts.pop(unit))
        first = len(range(of_unit.start, min(rules.oov_rows, of_unit.stop), of_unit.step))
        kept = _most_used(mine, rules, len(of_unit) - first)
        left_out += len(mine["ids"]) - len(kept)
        own = np.arange(first, first + len(kept)) * of_unit.step + of_unit.start
        state = {name: mine[name][kept] for name in _COLUMNS} | {"rows": own}
        sources += [mine["rows"][kept], np.arange(of_unit.start, shared, of_unit.step)]
        targets += [own, sources[-1]]
        made.append(IdMap.of_state(of_unit, rules, {**_EMPTY, "clock": clock, **state}))
    source, target = np.concatenate(sources), np.concatenate(targets)
    order = np.argsort(source)
    return Restored(made, Moves(source[order], target[order]), left_out)


def _gathered(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    none = np.zeros(0, np.int64)
    return {name: np.concatenate([none, *(part[name] for part in parts)]) for name in _COLUMNS}


_EMPTY = {"sightings": 0, "sketch": np.zeros((2, 0), np.uint8)}


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of several maps as one, with the clock that is furthest on; ages stay what they are."""
    clock = max(int(part["clock"]) for part in parts)
    columns = {
        name: np.concatenate([np.asarray(part[name], np.int64) for part in parts])
        for name in _COLUMNS
    }
    behind = [np.full(len(part["ids"]), clock - int(part["clock"]), np.int64) for part in parts]
    columns["last_used"] = columns["last_used"] + np.concatenate(behind)
    return {"clock": clock, **columns}


def split(
    placement: Placement, table: int, vocabulary: int, rules: MapRules, whole: Mapping[str, Any]
) -> list[IdMap]:
    """The maps of the devices of this process out of the state of one map, rows where they are.

    Ids whose rows other processes hold are passed over.

    Raises:
        ValueError: the rows of some ids are not held by the devices that own these ids now.
    """
    ids, rows = (np.asarray(whole[name], np.int64) for name in ("ids", "rows"))
    of, made, seen = owners(ids, placement.num_devices), [], np.zeros(len(ids), np.bool_)
    held = placement.ids(table, vocabulary)
    here = (rows >= held.start) & (rows < held.stop) & ((rows - held.start) % held.step == 0)
    for unit in local_units(placement, table):
        mine = of == unit
        state = {name: np.asarray(whole[name])[mine] for name in _COLUMNS}
        of_unit = unit_rows(placement, vocabulary, unit)
        made.append(IdMap.of_state(of_unit, rules, {**_EMPTY, "clock": whole["clock"], **state}))
        seen |= mine
    if (here & ~seen).any():
        raise ValueError(
            "the ids were shared among another number of devices; load a checkpoint, which brings rows to "
            "the devices that own their ids"
        )
    return made


def _most_used(
    state: Mapping[str, NDArray[Any]], rules: MapRules, number: int
) -> NDArray[np.int64]:
    """The positions, in rising order of ids, of at most so many ids, those used most by the rule."""
    keys = [state["ids"], -state["last_used"]]
    if rules.eviction == "lfu":
        keys.append(-state["count"])
    kept = np.lexsort(keys)[:number]
    found: NDArray[np.int64] = kept[np.argsort(state["ids"][kept])]
    return found

"""Maps of a table out of a saved state: as they were, or for other devices or another number of rows.

Letters: V vocabulary (rows), G devices, n ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..distributed.placement import Placement
from .id_maps.id_map import IdMap, MapRules
from .owners import local_units, owners, unit_rows

_COLUMNS = ("ids", "rows", "last_used", "count")


@dataclass(frozen=True)
class Moves:
    """Rows that come to lie elsewhere: their ids have other rows now."""

    sources: NDArray[np.int64]
    """`[n]`: rows of the saved table, rising."""
    targets: NDArray[np.int64]
    """`[n]`: the rows of the table that they become."""


@dataclass(frozen=True)
class SavedMaps:
    """The maps of all devices that a table was saved with.

    Args:
        vocabulary: V when it was saved.
        parts: the state of each map, with the number of its 'unit' and the 'strategy' of its placement.
        has_shared: False if no row is a shared one there; those of the table then stay as they are.
    """

    vocabulary: int
    parts: Sequence[Mapping[str, Any]]
    has_shared: bool = True

    @classmethod
    def of_numbers(cls, vocabulary: int, padding_idx: int | None) -> SavedMaps:
        """A table without a vocabulary, whose row numbers are its ids: each used once, just now.

        Args:
            padding_idx: a row number that is no id.
        """
        rows = np.arange(vocabulary)
        if padding_idx is not None:
            rows = rows[rows != padding_idx]
        once = np.ones_like(rows)
        part = {"clock": 0, "ids": rows, "rows": rows, "last_used": 0 * once, "count": once}
        return cls(vocabulary, [{**part, "unit": 0, "strategy": "mod"}], has_shared=False)

    def restored(
        self, placement: Placement, table: int, vocabulary: int, rules: MapRules
    ) -> tuple[list[IdMap], Moves | None]:
        """The maps of the devices of this process, and the rows that must move; None if none does.

        Of more ids than there are rows now, those used least, by the rule of eviction, are left out.

        Args:
            table: the position of the table.
            vocabulary: V now.

        Raises:
            ValueError: the states are none of such maps.
        """
        units = local_units(placement, table)
        rows = [unit_rows(placement, vocabulary, unit) for unit in units]
        by_unit = {part["unit"]: part for part in self.parts}
        count = placement.num_devices
        if sorted(by_unit) != [*range(len(self.parts))]:
            raise ValueError("the maps of some devices are missing")
        stays = (
            self.has_shared
            and len(by_unit) == count
            and (
                (vocabulary == self.vocabulary and placement.strategy == self.parts[0]["strategy"])
                or (vocabulary >= self.vocabulary and count == 1)
            )
        )
        if stays:
            pairs = zip(units, rows, strict=True)
            return [IdMap.of_state(each, rules, by_unit[u]) for u, each in pairs], None
        return self._moved(units, rows, rules, count, min(vocabulary, rules.oov_rows))

    def _moved(
        self, units: Sequence[int], rows: Sequence[range], rules: MapRules, count: int, shared: int
    ) -> tuple[list[IdMap], Moves]:
        whole = joined(self.parts)
        of = owners(whole["ids"], count)
        made, sources, targets = [], [], []
        for unit, of_unit in zip(units, rows, strict=True):
            first = len(range(of_unit.start, min(shared, of_unit.stop), of_unit.step))
            mine = {name: whole[name][of == unit] for name in _COLUMNS}
            kept = _most_used(mine, rules, len(of_unit) - first)
            own = np.arange(first, first + len(kept)) * of_unit.step + of_unit.start
            state = {name: mine[name][kept] for name in _COLUMNS} | {"rows": own}
            end = shared if self.has_shared else 0
            sources += [mine["rows"][kept], np.arange(of_unit.start, end, of_unit.step)]
            targets += [own, sources[-1]]
            made.append(
                IdMap.of_state(of_unit, rules, {**_EMPTY, "clock": whole["clock"], **state})
            )
        source, target = np.concatenate(sources), np.concatenate(targets)
        order = np.argsort(source)
        return made, Moves(source[order], target[order])


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

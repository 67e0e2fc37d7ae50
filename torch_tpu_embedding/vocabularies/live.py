"""The maps of all tables with a DynamicVocabulary, and the batches whose rows must not be taken.

Each device has a map of its own for each table, which this process keeps: `owners.py` says for which ids.
Letters: N ids, n new rows, D dim, P devices of this process, G devices of all.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.resolved import Resolved
from ..config.vocabulary import DynamicVocabulary
from ..distributed.group import HostGroup
from ..distributed.placement import Placement
from ..inputs.bags import Bags
from .asking import Asked, ask
from .id_maps.earlier import EarlierMap
from .id_maps.id_map import IdMap, MapRules
from .id_maps.journal import Journal
from .id_maps.mapped import Mapped, Numbers
from .id_maps.snapshot import TableSnapshot
from .live_counts import LiveCounts
from .owners import local_units, owners, unit_rows
from .start_values import start_values_by_id


@dataclass(eq=False)
class NewRows:
    """The rows of one training batch that start anew, table by table: to be written as it is looked up."""

    rows: dict[int, list[Tensor]] = field(default_factory=dict)
    """Table → for each of the P devices its rows `[n]` int64, rising, counted on the device."""
    weights: dict[int, list[Tensor]] = field(default_factory=dict)
    """Table → for each device their start values `[n, D]`."""


@dataclass(frozen=True)
class Seen:
    """The marks that a batch has left on the maps of a table."""

    journals: list[Journal]
    counts: Counter[str]
    unwritten: set[int]
    """The ids of dropped batches that this one was to write."""


@dataclass(eq=False)
class Claim:
    """The hold of a batch on its rows; it ends when nobody has it any more."""

    clocks: dict[int, int] = field(default_factory=dict)
    """Table → the clock of its maps at this training batch."""
    ids: dict[int, np.ndarray] = field(default_factory=dict)
    """Table → the ids that were given new rows here, which are not written yet."""
    seen: dict[int, Seen] = field(default_factory=dict)
    """Table → what its maps must know to forget this batch, until it is looked up."""


class LiveVocabularies:
    """The maps from ids to rows of one embedding, as far as this process has them.

    Args:
        seed: of the start values.
        placement: of the tables.
    """

    def __init__(self, resolved: Resolved, seed: int, placement: Placement) -> None:
        self.placement = placement
        self._resolved = resolved
        self._seed = seed
        self._lock = threading.Lock()
        self._claims: weakref.WeakSet[Claim] = weakref.WeakSet()
        self._counts = LiveCounts()
        self._snapshots: dict[int, weakref.WeakSet[TableSnapshot]] = {}
        self._unwritten: dict[int, set[int]] = {}
        self.maps: dict[int, list[IdMap]] = {}
        """Table → the maps of the P devices."""
        for number, table in enumerate(resolved.tables):
            if isinstance(table.config.vocabulary, DynamicVocabulary):
                units = local_units(placement, number)
                rows = [unit_rows(placement, table.vocabulary_size, unit) for unit in units]
                self.maps[number] = [IdMap(each, self.rules(number)) for each in rows]

    def __getstate__(self) -> dict[str, Any]:
        """For copies of an embedding on the CPU, where no batch is in flight."""
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_claims", "_snapshots")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _claims=weakref.WeakSet(), _snapshots={})

    def rules(self, table: int) -> MapRules:
        """The rules of a table's vocabulary."""
        vocabulary = self._resolved.tables[table].config.vocabulary
        assert isinstance(vocabulary, DynamicVocabulary)
        return MapRules(
            vocabulary.eviction, vocabulary.admission, vocabulary.oov_rows, vocabulary.max_age
        )

    def look_up(
        self,
        bags: Sequence[Bags] | Exception,
        training: bool,
        frozen: Set[int],
        group: HostGroup,
    ) -> tuple[list[Bags], NewRows, Claim]:
        """The bags of a batch with rows in place of ids, the rows that start anew here, and the hold on
        rows; a collective call.

        Args:
            bags: in feature order, all checked: those of these tables hold numbers of their `raw_ids`. Or
                the error because of which this process has none, to be raised on all.
            training: True to admit and to evict; False changes nothing.
            frozen: the tables that stay as they are, ids and rows, in training too.
        """
        new, claim = NewRows(), Claim()

        def answer(asked: Mapping[int, Asked]) -> dict[int, Numbers]:
            with self._lock:
                rows = {}
                for table, each in asked.items():
                    changes = training and table not in frozen
                    rows[table] = (
                        self._rows(table, each, new, claim)
                        if changes
                        else self._find(table, each.ids)
                    )
                if training:
                    self._claims.add(claim)
            return rows

        ids = bags if isinstance(bags, Exception) else self._raw_ids(bags)
        try:
            rows = ask(group, self.placement, "enqueue", int(training), ids, [*self.maps], answer)
        except BaseException:
            self.take_back(claim)
            raise
        assert not isinstance(bags, Exception)
        return self._with_rows(bags, rows), new, claim

    def sent(self, claim: Claim) -> None:
        """Take note that a batch is on its way: it will not be taken back."""
        with self._lock:
            for table, seen in claim.seen.items():
                for each, journal in zip(self.maps[table], seen.journals, strict=True):
                    each.forget(journal)

    def take_back(self, claim: Claim) -> None:
        """Leave the maps as they were before a batch, which could not be sent.

        If another one was looked up meanwhile, its ids count as seen.
        """
        with self._lock:
            for table, seen in claim.seen.items():
                pairs = zip(self.maps[table], seen.journals, strict=True)
                taken = [each.take_back(journal) for each, journal in pairs]
                if all(taken):
                    self._counts.subtract(table, seen.counts)
                    self._unwritten.setdefault(table, set()).update(seen.unwritten)
                    claim.ids[table] = np.empty(0, np.int64)
            claim.seen.clear()
            self._claims.discard(claim)

    def find(self, table: int, ids: Tensor, group: HostGroup, call: str) -> Tensor:
        """The row of each id `[N]` of a table, as in inference; nothing changes. A collective call."""

        def answer(asked: Mapping[int, Asked]) -> dict[int, Numbers]:
            with self._lock:
                return {table: self._find(table, asked[table].ids)}

        rows = ask(group, self.placement, call, table, {table: ids.numpy()}, [table], answer)
        return torch.from_numpy(rows[table].astype(np.int64))

    def states(self, table: int) -> list[dict[str, Any]]:
        """The maps of a table as `IdMap.state` gives them, with the number of each one's 'unit' and the
        'strategy' of the placement: as they were before the batches that wait to be looked up, which a run
        that goes on from here sees again, and without ids whose rows are not written yet."""
        units, strategy = local_units(self.placement, table), self.placement.strategy
        with self._lock:
            pairs = zip(units, self._before(table), strict=True)
            return [{**each.state(), "unit": unit, "strategy": strategy} for unit, each in pairs]

    def snapshot(self, table: int) -> TableSnapshot:
        """The maps of a table as `states` gives them, to be read part by part while others follow."""
        units = local_units(self.placement, table)
        offsets = [unit // self.placement.num_shards for unit in units]
        with self._lock:
            made = TableSnapshot(self._before(table), units, offsets, self._lock)
            self._snapshots.setdefault(table, weakref.WeakSet()).add(made)
        return made

    def _before(self, table: int) -> list[EarlierMap]:
        """The maps of a table before the batches that wait to be looked up, but for unwritten ids."""
        ahead = self._ahead(table)
        waiting = self._not_written(table, ahead)
        return [
            each.before([c.seen[table].journals[number] for c in ahead], waiting)
            for number, each in enumerate(self.maps[table])
        ]

    def require_idle(self, call: str) -> None:
        """Raise RuntimeError if batches are in flight, whose rows a load would give to other ids."""
        if any(claim.clocks for claim in self._claims):
            gc.collect()  # a batch that is gone may still lie in a cycle
        waiting = sum(bool(claim.clocks) for claim in self._claims)
        if waiting:
            raise RuntimeError(
                f"{call}: {waiting} training batches are in flight, whose ids have rows by the map that "
                "would be replaced; apply their gradients or discard() them first"
            )

    def replace(self, maps: Mapping[int, list[IdMap]]) -> None:
        """Take other maps for these tables."""
        with self._lock:
            self.maps.update(maps)
            for table in maps:
                self._unwritten.pop(table, None)

    def report(self, table: int) -> dict[str, Any]:
        """Numbers of a table's maps in this process for metrics: occupancy and ages as they are, counts
        since the start."""
        with self._lock:
            return self._counts.report(table, self.maps[table])

    def written(self, claim: Claim) -> None:
        """The new rows of a batch have their start values."""
        with self._lock:
            claim.ids.clear()
            claim.seen.clear()

    def _raw_ids(self, bags: Sequence[Bags]) -> dict[int, np.ndarray]:
        """Table → the ids of all its features, one after another."""
        parts: dict[int, list[Tensor]] = {table: [] for table in self.maps}
        for feature, each in zip(self._resolved.features, bags, strict=True):
            if each.raw_ids is not None:
                parts[feature.table_index].append(each.raw_ids)
        return {table: torch.cat(each).numpy() for table, each in parts.items()}

    def _with_rows(self, bags: Sequence[Bags], rows: Mapping[int, Numbers]) -> list[Bags]:
        """The bags with the rows of each table, which are in the order of `_raw_ids`."""
        found, begin = [*bags], Counter[int]()
        for number, (feature, each) in enumerate(zip(self._resolved.features, bags, strict=True)):
            if each.raw_ids is not None:
                table, count = feature.table_index, len(each.raw_ids)
                of_feature = rows[table][begin[table] : begin[table] + count]
                begin[table] += count
                looked_up = torch.from_numpy(np.append(of_feature, -1).astype(np.int64))
                found[number] = replace(each, ids=looked_up[each.ids], raw_ids=None)
        return found

    def _rows(self, table: int, asked: Asked, new: NewRows, claim: Claim) -> Numbers:
        """The rows of the ids of a training batch that belong to this process."""
        maps = self.maps[table]
        clock = maps[0].clock + 1
        oldest = min((c.clocks[table] for c in self._claims if table in c.clocks), default=clock)
        mapped, rows = self._update(table, asked, oldest)
        for snapshot in self._snapshots.get(table, ()):
            snapshot.note([each.journal for each in mapped])
        config, unwritten = self._resolved.tables[table], {*self._unwritten.get(table, ())}
        counts = self._counts.note(config, table, maps, mapped, asked.times)
        claim.seen[table] = Seen([each.journal for each in mapped], counts, unwritten)
        left = self._left(table, mapped)
        key = f"{self._seed}/{config.name}"
        new.rows[table], new.weights[table], given = [], [], []
        for map_, each in zip(maps, mapped, strict=True):
            again = left[map_.index.find(left) >= 0]
            new_ids = np.concatenate([each.new_ids, again])
            new_rows = np.concatenate([each.new_rows, map_.index.find(again)])
            order = np.argsort(new_rows)
            new.rows[table].append(torch.from_numpy(new_rows[order].astype(np.int64)))
            ids = torch.from_numpy(new_ids[order])
            new.weights[table].append(start_values_by_id(config, ids, key))
            given.append(new_ids)
        claim.clocks[table] = clock
        claim.ids[table] = np.concatenate(given)
        weakref.finalize(claim, self._forget, table, claim.ids)
        return rows

    def _update(self, table: int, asked: Asked, oldest: int) -> tuple[list[Mapped], Numbers]:
        """See ids by each device's map."""
        maps = self.maps[table]
        if len(maps) == 1:
            mapped = maps[0].update(asked.ids, oldest, asked.times)
            return [mapped], mapped.rows
        found, rows = [], np.empty(len(asked.ids), np.int64)
        for map_, at in zip(maps, self._by_device(table, asked.ids), strict=True):
            times = None if asked.times is None else asked.times.take(at)
            found.append(map_.update(asked.ids.take(at), oldest, times))
            rows[at] = found[-1].rows
        return found, rows

    def _find(self, table: int, ids: np.ndarray) -> Numbers:
        """The rows of ids in inference: a shared one, too, where the id's own is not written yet."""
        maps, waiting = self.maps[table], self._not_written(table)
        if len(maps) == 1:
            rows = maps[0].find(ids)
        else:
            rows = np.empty(len(ids), np.int64)
            for map_, at in zip(maps, self._by_device(table, ids), strict=True):
                rows[at] = map_.find(ids.take(at))
        if len(waiting):
            fresh = np.isin(ids, waiting)
            rows[fresh] = maps[0].shared_rows(ids[fresh])
        return rows

    def _by_device(self, table: int, ids: np.ndarray) -> list[np.ndarray]:
        """For each device of this process, the positions of its ids."""
        of = owners(ids, self.placement.num_devices)
        return [np.flatnonzero(of == unit) for unit in local_units(self.placement, table)]

    def _forget(self, table: int, ids: dict[int, np.ndarray]) -> None:
        """A batch is gone; its new rows, if it was never looked up, are for the next one to write."""
        if table in ids:
            self._unwritten.setdefault(table, set()).update(ids[table].tolist())

    def _left(self, table: int, mapped: list[Mapped]) -> np.ndarray:
        """The ids of batches that were dropped, whose rows still hold what was there before."""
        left = np.array(sorted(self._unwritten.pop(table, ())), np.int64)
        if not len(left):
            return left
        return np.setdiff1d(left, np.concatenate([each.new_ids for each in mapped]))

    def _ahead(self, table: int) -> list[Claim]:
        """The batches that came last and wait to be looked up, the latest first."""
        waiting = {c.clocks[table]: c for c in self._claims if table in c.seen}
        clock = self.maps[table][0].clock
        found = []
        while clock in waiting:
            found.append(waiting[clock])
            clock -= 1
        return found

    def _not_written(self, table: int, ahead: Sequence[Claim] = ()) -> np.ndarray:
        """The ids whose rows still hold what was there before; before the batches `ahead`, if there are."""
        waiting = {*self._unwritten.get(table, ())}
        if ahead:
            waiting |= ahead[-1].seen[table].unwritten
        parts = [np.array([*waiting], np.int64)]
        parts += [c.ids[table] for c in self._claims if table in c.ids and c not in ahead]
        return np.concatenate(parts)

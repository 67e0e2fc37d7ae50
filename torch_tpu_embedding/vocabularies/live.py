"""The maps of all tables with a DynamicVocabulary, and the batches whose rows must not be taken.

Letters: N ids, n new rows, D dim.
"""

from __future__ import annotations

import gc
import logging
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
from ..inputs.bags import Bags
from .id_map import IdMap, Mapped, MapRules
from .journal import Journal
from .start_values import start_values_by_id

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class NewRows:
    """The rows of one training batch that start anew, table by table: to be written as it is looked up."""

    rows: dict[int, Tensor] = field(default_factory=dict)
    """Table → rows `[n]` int64, rising."""
    weights: dict[int, Tensor] = field(default_factory=dict)
    """Table → their start values `[n, D]`."""


@dataclass(frozen=True)
class Seen:
    """The marks that a batch has left on a table's map."""

    journal: Journal
    counts: Counter[str]
    unwritten: set[int]
    """The ids of dropped batches that this one was to write."""


@dataclass(eq=False)
class Claim:
    """The hold of a batch on its rows; it ends when nobody has it any more."""

    clocks: dict[int, int] = field(default_factory=dict)
    """Table → its map's clock at this training batch."""
    ids: dict[int, np.ndarray] = field(default_factory=dict)
    """Table → the ids that were given new rows, which are not written yet."""
    seen: dict[int, Seen] = field(default_factory=dict)
    """Table → what its map must know to forget this batch, as long as the batch may fail to be sent."""


class LiveVocabularies:
    """The maps from ids to rows of one embedding.

    Args:
        seed: of the start values.
    """

    def __init__(self, resolved: Resolved, seed: int) -> None:
        self._resolved = resolved
        self._seed = seed
        self._lock = threading.Lock()
        self._claims: weakref.WeakSet[Claim] = weakref.WeakSet()
        self._counts: dict[int, Counter[str]] = {}
        self._said = False
        self._unwritten: dict[int, set[int]] = {}
        self.maps = {
            number: IdMap(table.vocabulary_size, _rules(table.config.vocabulary))
            for number, table in enumerate(resolved.tables)
            if isinstance(table.config.vocabulary, DynamicVocabulary)
        }

    def look_up(
        self, bags: Sequence[Bags], training: bool, frozen: Set[int] = frozenset()
    ) -> tuple[list[Bags], NewRows, Claim]:
        """The bags of a batch with rows in place of ids, the rows that start anew, and the hold on them.

        Args:
            bags: in feature order, all checked: those of these tables hold numbers of their `raw_ids`.
            training: True to admit and to evict; False changes nothing.
            frozen: the tables that stay as they are, ids and rows, in training too.
        """
        found, new, claim = [*bags], NewRows(), Claim()
        by_table: dict[int, list[int]] = {}
        for number, feature in enumerate(self._resolved.features):
            if feature.table_index in self.maps:
                by_table.setdefault(feature.table_index, []).append(number)
        with self._lock:
            for table, features in by_table.items():
                parts = [bags[number].raw_ids for number in features]
                ids = torch.cat([part for part in parts if part is not None])
                changes = training and table not in frozen
                rows = self._rows(table, ids.numpy(), changes, new, claim)
                ends = np.cumsum([0 if part is None else len(part) for part in parts])
                for number, of_feature in zip(features, np.split(rows, ends[:-1]), strict=True):
                    each = bags[number]
                    looked_up = torch.from_numpy(np.append(of_feature, -1).astype(np.int64))
                    found[number] = replace(each, ids=looked_up[each.ids], raw_ids=None)
            if training:
                self._claims.add(claim)
        return found, new, claim

    def sent(self, claim: Claim) -> None:
        """Take note that a batch is on its way: it will not be taken back."""
        with self._lock:
            for table, seen in claim.seen.items():
                self.maps[table].forget(seen.journal)
            claim.seen.clear()

    def take_back(self, claim: Claim) -> None:
        """Leave the maps as they were before a batch, which could not be sent.

        If another one was looked up meanwhile, its ids count as seen.
        """
        with self._lock:
            for table, seen in claim.seen.items():
                if self.maps[table].take_back(seen.journal):
                    self._counts[table].subtract(seen.counts)
                    self._unwritten.setdefault(table, set()).update(seen.unwritten)
                    claim.ids[table] = np.empty(0, np.int64)
            claim.seen.clear()
            self._claims.discard(claim)

    def find(self, table: int, ids: Tensor) -> Tensor:
        """The row of each id `[N]` of a table, as inference finds it; nothing changes."""
        with self._lock:
            return torch.from_numpy(self._find(table, ids.numpy()).astype(np.int64))

    def state(self, table: int) -> dict[str, Any]:
        """The map of a table as `IdMap.state` gives it, without ids whose rows are not written yet."""
        with self._lock:
            return self.maps[table].state(self._not_written(table))

    def of_state(self, table: int, state: Mapping[str, Any]) -> IdMap:
        """A map for a table out of a saved state, which `replace` takes.

        Raises:
            ValueError: it is none of this table.
        """
        rules, config = self.maps[table].rules, self._resolved.tables[table]
        try:
            return IdMap.of_state(config.vocabulary_size, rules, state)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"table {config.name!r}: {error}") from error

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

    def replace(self, maps: Mapping[int, IdMap]) -> None:
        """Take other maps for these tables."""
        with self._lock:
            self.maps.update(maps)
            for table in maps:
                self._unwritten.pop(table, None)

    def report(self, table: int) -> dict[str, Any]:
        """Numbers of a table's map for metrics: occupancy and ages as they are, counts since the start."""
        with self._lock:
            map_, counts = self.maps[table], self._counts.get(table, Counter[str]())
            own = len(map_.last_used) - map_.rules.oov_rows
            ages = map_.clock - map_.last_used[map_.index.has_id()]
            buckets = np.bincount(np.ceil(np.log2(ages + 1)).astype(np.int64))
            return {
                "occupancy": map_.num_ids / own,
                "admissions": counts["admissions"],
                "evictions": counts["evictions"],
                "expirations": counts["expirations"],
                "turned_away": counts["turned away"],
                "oov_share": counts["shared"] / counts["lookups"] if counts["lookups"] else None,
                "ages": {(1 << at) - 1: n for at, n in enumerate(buckets.tolist()) if n},
            }

    def _count(self, table: int, mapped: Mapped) -> Counter[str]:
        oov_rows = self.maps[table].rules.oov_rows
        counts = Counter(
            {
                "admissions": len(mapped.new_rows),
                "evictions": mapped.evicted,
                "expirations": mapped.expired,
                "turned away": mapped.turned_away,
                "shared": int((mapped.rows < oov_rows).sum()),
                "lookups": len(mapped.rows),
            }
        )
        self._counts.setdefault(table, Counter()).update(counts)
        if mapped.turned_away and not self._said:
            self._said = True
            text = "table %r is full: ids without a row use its %d shared rows (this is said once)"
            logger.warning(text, self._resolved.tables[table].name, oov_rows)
        return counts

    def written(self, claim: Claim) -> None:
        """The new rows of a batch have their start values."""
        claim.ids.clear()

    def _rows(
        self, table: int, ids: np.ndarray, training: bool, new: NewRows, claim: Claim
    ) -> np.ndarray:
        map_ = self.maps[table]
        if not training:
            return self._find(table, ids)
        oldest = min((c.clocks[table] for c in self._claims if table in c.clocks), default=None)
        mapped: Mapped = map_.update(ids, map_.clock + 1 if oldest is None else oldest)
        unwritten = {*self._unwritten.get(table, ())}
        claim.seen[table] = Seen(mapped.journal, self._count(table, mapped), unwritten)
        again = self._dropped(table, mapped)
        new_ids = np.concatenate([mapped.new_ids, again])
        new_rows = np.concatenate([mapped.new_rows, map_.index.find(again)])
        order = np.argsort(new_rows)
        new.rows[table] = torch.from_numpy(new_rows[order].astype(np.int64))
        key = f"{self._seed}/{self._resolved.tables[table].name}"
        new.weights[table] = start_values_by_id(
            self._resolved.tables[table], torch.from_numpy(new_ids[order]), key
        )
        claim.clocks[table] = map_.clock
        claim.ids[table] = new_ids[order]
        weakref.finalize(claim, self._forget, table, claim.ids)
        return mapped.rows

    def _find(self, table: int, ids: np.ndarray) -> np.ndarray:
        """The rows of ids in inference: a shared one, too, where the id's own is not written yet."""
        map_ = self.maps[table]
        rows, waiting = map_.find(ids), self._not_written(table)
        if len(waiting):
            fresh = np.isin(ids, waiting)
            rows[fresh] = map_.shared_rows(ids[fresh])
        return rows

    def _forget(self, table: int, ids: dict[int, np.ndarray]) -> None:
        """A batch is gone; its new rows, if it was never looked up, are for the next one to write."""
        if table in ids:
            self._unwritten.setdefault(table, set()).update(ids[table].tolist())

    def _dropped(self, table: int, mapped: Mapped) -> np.ndarray:
        """The ids of batches that were dropped, whose rows still hold what was there before."""
        left = np.array(sorted(self._unwritten.pop(table, ())), np.int64)
        left = np.setdiff1d(left, mapped.new_ids)
        return left[self.maps[table].index.find(left) >= 0]

    def _not_written(self, table: int) -> np.ndarray:
        waiting = [*self._unwritten.get(table, ())]
        parts = [np.array(waiting, np.int64)]
        parts += [claim.ids[table] for claim in self._claims if table in claim.ids]
        return np.concatenate(parts)


def _rules(vocabulary: object) -> MapRules:
    assert isinstance(vocabulary, DynamicVocabulary)
    return MapRules(
        vocabulary.eviction, vocabulary.admission, vocabulary.oov_rows, vocabulary.max_age
    )

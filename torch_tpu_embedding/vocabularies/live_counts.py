"""Counts of what happens to the ids of tables with a DynamicVocabulary, for metrics and the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config.resolved import Table
from .id_maps.id_map import IdMap
from .id_maps.mapped import Mapped

logger = logging.getLogger(__name__)


class LiveCounts:
    """Counts since the start, table by table."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[str]] = {}
        self._said = False

    def note(
        self,
        table: Table,
        number: int,
        maps: Sequence[IdMap],
        mapped: Sequence[Mapped],
        times: NDArray[np.int64] | None,
    ) -> Counter[str]:
        """Count a training batch; gives what was added.

        Args:
            number: of the table.
            mapped: by each of the maps.
            times: the occurrences of all ids of the maps together; None for one each.
        """
        oov_rows = maps[0].rules.oov_rows
        lookups = sum(len(each.rows) for each in mapped)
        counts = Counter(
            {
                "admissions": sum(len(each.new_rows) for each in mapped),
                "evictions": sum(each.evicted for each in mapped),
                "expirations": sum(each.expired for each in mapped),
                "turned away": sum(each.turned_away for each in mapped),
                "shared": sum(each.shared for each in mapped),
                "lookups": lookups if times is None else int(times.sum()),
            }
        )
        self._counts.setdefault(number, Counter()).update(counts)
        if counts["turned away"] and not self._said:
            self._said = True
            text = "table %r is full: ids without a row use its %d shared rows (this is said once)"
            logger.warning(text, table.name, oov_rows)
        return counts

    def subtract(self, number: int, counts: Counter[str]) -> None:
        """Take a batch back that was counted."""
        self._counts[number].subtract(counts)

    def report(self, number: int, maps: Sequence[IdMap]) -> dict[str, Any]:
        """The counts of a table, and the state of its maps."""
        counts = self._counts.get(number, Counter[str]())
        own = sum(each.num_own for each in maps)
        ages = np.concatenate([each.clock - each.last_used[each.index.has_id()] for each in maps])
        buckets = np.bincount(np.ceil(np.log2(ages + 1)).astype(np.int64))
        return {
            "occupancy": sum(each.num_ids for each in maps) / own if own else 0.0,
            "admissions": counts["admissions"],
            "evictions": counts["evictions"],
            "expirations": counts["expirations"],
            "turned_away": counts["turned away"],
            "oov_share": counts["shared"] / counts["lookups"] if counts["lookups"] else None,
            "ages": {(1 << at) - 1: n for at, n in enumerate(buckets.tolist()) if n},
        }

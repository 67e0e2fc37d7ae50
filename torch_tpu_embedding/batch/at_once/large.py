"""The ids of tables with too many rows and lookups for a key of 32 bits: one table after another.

Letters: B batch, T tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..dedup import Ranks, unique_by
from .region import Found, Region

_Array = NDArray[Any]


class LargeTables:
    """Finds the distinct ids of several tables with `dedup.py`; methods as those that `stack.py` calls.

    Args:
        runs: the regions of each table.
        rows: of each table.
        ranks: of the batcher's thread.
    """

    def __init__(self, runs: Sequence[Sequence[Region]], rows: Sequence[int], ranks: Ranks) -> None:
        self._runs = runs
        self._rows = rows
        self._ranks = ranks
        self._inverses: list[_Array] = []

    def find(self, parts: Sequence[_Array], matrix: _Array | None, before: _Array | None) -> Found:
        ids = []
        self._inverses = []
        for run, rows in zip(self._runs, self._rows, strict=True):
            given = np.concatenate([parts[each.feature] for each in run], dtype=np.int64)
            unique, inverse = unique_by(self._ranks, torch.from_numpy(given), rows)
            ids.append(unique.numpy())
            self._inverses.append(inverse.numpy())
        return Found(np.concatenate(ids), np.array([each.size for each in ids]))

    def write(self, rows: _Array, starts: _Array) -> None:
        for run, inverse, start in zip(self._runs, self._inverses, starts.tolist(), strict=True):
            at = 0
            for region in run:
                positions = region.by_position(inverse[at : at + region.count])
                np.add(positions, np.int32(start), out=region.of(rows))
                at += region.count
        self._inverses = []

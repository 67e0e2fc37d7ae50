"""Synthetic workloads for benchmarks, seeded, with Zipf-distributed ids (exponent 1.05).

Letters: B batch, V vocabulary, D dim, H ids of a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import torch_tpu_embedding as tte

EXPONENT = 1.05
CRITEO_ROWS = [
    40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10,
    2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36,
]  # fmt: skip
CRITEO_IDS = [
    3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1,
]  # fmt: skip
"""Rows and ids a sample of the 26 tables of MLPerf's DLRM-DCNv2."""


@dataclass(frozen=True)
class Input:
    """One feature: its table, H (`ids`), and True for `ragged` if samples have up to H ids."""

    table: int
    ids: int = 1
    ragged: bool = False
    sequence: bool = False


@dataclass(frozen=True)
class Workload:
    """Tables and features; one step is a batch for each feature."""

    name: str
    rows: tuple[int, ...]
    dim: int | tuple[int, ...]
    """D of all tables, or of each."""
    inputs: tuple[Input, ...]
    batch_size: int

    @property
    def dims(self) -> tuple[int, ...]:
        """D of each table."""
        return self.dim if isinstance(self.dim, tuple) else (self.dim,) * len(self.rows)

    def features(self) -> list[tte.FeatureConfig]:
        """The configuration; tables start as zeros."""
        tables = [
            tte.TableConfig(rows, dim, initializer=torch.zeros, combiner="sum", name=f"t{t}")
            for t, (rows, dim) in enumerate(zip(self.rows, self.dims, strict=True))
        ]
        return [
            tte.FeatureConfig(tables[each.table], max_sequence_length=each.ids * each.sequence)
            for each in self.inputs
        ]

    def batches(self, seed: int, batch_size: int | None = None) -> Callable[[], list[object]]:
        """A function that returns the next batch, nested like `features`."""
        generator = torch.Generator().manual_seed(seed)
        shares = {rows: _cumulative(rows) for rows in set(self.rows)}
        size = batch_size or self.batch_size

        def draw() -> list[object]:
            return [
                self._draw(each, shares[self.rows[each.table]], size, generator)
                for each in self.inputs
            ]

        return draw

    def capped(self, cap: int) -> Workload:
        """This workload with no table larger than `cap` rows."""
        return replace(self, rows=tuple(min(cap, rows) for rows in self.rows))

    def first_feature(self) -> Workload:
        """The first feature and its table alone."""
        first = self.inputs[0]
        rows, dims = self.rows[first.table], self.dims[first.table]
        inputs = (replace(first, table=0),)
        return replace(self, rows=(rows,), dim=(dims,), inputs=inputs)

    def _draw(self, of: Input, share: Tensor, size: int, generator: torch.Generator) -> object:
        drawn = torch.rand(size, of.ids, generator=generator, dtype=torch.float64)
        ids = torch.searchsorted(share, drawn).clamp(max=len(share) - 1)
        if of.ids == 1:
            return ids[:, 0]
        lengths = torch.full((size,), of.ids)
        if of.ragged:
            lengths = torch.randint(1, of.ids + 1, (size,), generator=generator)
        return tte.Ragged.from_lengths(ids[torch.arange(of.ids) < lengths[:, None]], lengths)


def _cumulative(rows: int) -> Tensor:
    weights = torch.arange(1, rows + 1, dtype=torch.float64).pow(-EXPONENT).cumsum(0)
    return weights / weights[-1]


def part(batch: list[object], rank: int, count: int) -> list[object]:
    """The samples of one of several processes."""
    found: list[object] = []
    for value in batch:
        if isinstance(value, tte.Ragged):
            ends = value.row_splits
            size = (len(ends) - 1) // count
            splits = ends[rank * size : (rank + 1) * size + 1]
            ids = value.values[int(splits[0]) : int(splits[-1])]
            found.append(tte.Ragged.from_lengths(ids, splits.diff()))
        else:
            assert isinstance(value, Tensor)
            found.append(value.chunk(count)[rank])
    return found


def capped_criteo(cap: int, batch_size: int) -> Workload:
    """DLRM-DCNv2 with no table larger than `cap` rows."""
    inputs = tuple(Input(table, ids) for table, ids in enumerate(CRITEO_IDS))
    return Workload("dcnv2-capped", tuple(CRITEO_ROWS), 128, inputs, batch_size).capped(cap)


TINY_TABLES = [
    (1, (1, 10), 10_000, 8), (1, (1, 10), 1_000_000, 16), (1, (1, 10), 25_000_000, 16),
    (1, (1,), 25_000_000, 16), (16, (1,), 10, 8), (10, (1,), 1_000, 8), (4, (1,), 10_000, 8),
    (2, (1,), 100_000, 16), (19, (1,), 1_000_000, 16),
]  # fmt: skip
"""NVIDIA's synthetic model "tiny": number of tables, H of each of their features, V, D."""


def synthetic_tiny(cap: int, batch_size: int) -> Workload:
    """NVIDIA's model "tiny", its tables cut at `cap` rows: 55 tables, 58 features, 85 ids a sample."""
    tables = [(rows, dim) for count, _, rows, dim in TINY_TABLES for _ in range(count)]
    hot = [ids for count, ids, _, _ in TINY_TABLES for _ in range(count)]
    inputs = tuple(Input(table, ids) for table, several in enumerate(hot) for ids in several)
    rows, dims = zip(*tables, strict=True)
    return Workload("tiny", rows, dims, inputs, batch_size).capped(cap)


WORKLOADS = {
    each.name: each
    for each in (
        Workload("onehot26", (100_000,) * 26, 64, tuple(map(Input, range(26))), 4096),
        Workload(
            "movielens",
            (943, 1682, 19),
            32,
            (
                Input(0),
                Input(1),
                Input(2, 6, ragged=True),
                Input(1, 20, ragged=True, sequence=True),
            ),
            4096,
        ),
        capped_criteo(1_000_000, 1024),
    )
}
"""Workloads whose tables have one dim."""

MORE_WORKLOADS = {
    each.name: each
    for each in (
        # 25M rows would not let two libraries with Adam lie side by side in 24 GB.
        synthetic_tiny(5_000_000, 4096),
        Workload("small26", (10_000,) * 26, 16, tuple(map(Input, range(26))), 256),
    )
}
"""A workload of mixed dims, and one so small that a step is mostly overhead."""

"""The owners of the rows of several tables, found by one call."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_tpu_embedding.distributed.placement import STRATEGIES, Placement, shard_ids

PLACEMENTS = st.builds(
    Placement, st.sampled_from(STRATEGIES), st.integers(1, 4), st.just(0), st.integers(1, 3)
)


@given(
    PLACEMENTS, st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)), min_size=1, max_size=5)
)
def test_the_rows_of_several_tables_are_found_as_those_of_each(
    placement: Placement, tables: list[tuple[int, int]]
) -> None:
    ids = torch.stack([torch.arange(12) % rows for _, rows in tables])
    numbers, rows = torch.tensor(tables).T[..., None]
    together = placement.locate(numbers, rows, ids)
    one_by_one = [placement.locate(*each, of) for each, of in zip(tables, ids, strict=True)]
    for found, wanted in zip(together, zip(*one_by_one, strict=True), strict=True):
        assert torch.equal(found, torch.stack(wanted))


@given(PLACEMENTS, st.integers(0, 9), st.integers(1, 12))
def test_each_row_lies_where_the_shards_say(placement: Placement, table: int, rows: int) -> None:
    on, position = placement.locate(table, rows, torch.arange(rows))
    for shard in range(placement.num_shards):
        process = (shard + table) % placement.num_shards
        for number, each in enumerate(
            shard_ids(rows, placement.num_shards, shard, placement.strategy)
        ):
            local = (number + table // placement.num_shards) % placement.local_devices
            assert int(on[each]) == process * placement.local_devices + local
            assert int(position[each]) == number // placement.local_devices

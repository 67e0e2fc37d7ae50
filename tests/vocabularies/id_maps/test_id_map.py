"""The map of ids that come and go: equal to a model of dicts over random streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.maps import ALL_IDS, SmallMap, rules, streams

from torch_tpu_embedding.vocabularies.id_maps.id_index import IdIndex
from torch_tpu_embedding.vocabularies.id_maps.id_map import IdMap, MapRules
from torch_tpu_embedding.vocabularies.id_maps.sketch import MOST_COUNTED, CountMinSketch
from torch_tpu_embedding.vocabularies.row_hash import shared_rows, shared_rows_of_array


class Model:
    """The same rules, an id at a time, with everything in dicts."""

    def __init__(self, num_rows: int, rules: MapRules) -> None:
        self.rules, self.clock = rules, 0
        self.row: dict[int, int] = {}
        self.used: dict[int, int] = {}
        self.frequency: dict[int, int] = {}
        self.seen: dict[int, int] = {}
        self.free = set(range(rules.oov_rows, num_rows))

    def drop(self, id_: int) -> None:
        self.free.add(self.row.pop(id_))
        del self.used[id_], self.frequency[id_]

    def update(self, ids: list[int], oldest: int) -> tuple[set[int], int, int, int]:
        """The ids that get rows, and how many are evicted, expired, and turned away."""
        self.clock += 1
        rules, oldest = self.rules, min(oldest, self.clock)
        expired = []
        if rules.max_age is not None:
            limit = min(self.clock - rules.max_age, oldest)
            expired = [each for each, used in self.used.items() if used < limit]
        for each in expired:
            self.drop(each)
        for each in {*ids} & {*self.row}:
            self.used[each] = self.clock
            self.frequency[each] += 1
        wanted = []
        for each in sorted({*ids} - {*self.row}):
            self.seen[each] = self.seen.get(each, 0) + ids.count(each)
            if self.seen[each] >= rules.admission:
                wanted.append(each)
        evicted = []
        if rules.eviction is not None and len(wanted) > len(self.free):
            order = {
                "lru": lambda i: (self.used[i], self.row[i]),
                "lfu": lambda i: (self.frequency[i], self.used[i], self.row[i]),
            }[rules.eviction]
            evictable = sorted((i for i in self.row if self.used[i] < oldest), key=order)
            evicted = evictable[: len(wanted) - len(self.free)]
        for each in evicted:
            self.drop(each)
        placed = wanted[: len(self.free)]
        for each in placed:
            self.used[each], self.frequency[each] = self.clock, 1
        return {*placed}, len(evicted), len(expired), len(wanted) - len(placed)

    def give(self, id_: int, row: int) -> None:
        """Take note of the row that the map chose: any that is free."""
        self.free.remove(row)
        self.row[id_] = row


@settings(max_examples=400, deadline=None)
@given(rules, st.integers(1, 12), streams)
def test_the_map_is_a_dict_that_admits_ages_and_evicts(
    rules: MapRules, own_rows: int, stream: list[tuple[list[int], int]]
) -> None:
    num_rows = rules.oov_rows + own_rows
    made, model = SmallMap(num_rows, rules), Model(num_rows, rules)
    for numbers, in_flight in stream:
        ids = ALL_IDS[numbers]
        oldest = made.clock + 1 - in_flight
        before = {i: r for i, r in model.row.items() if model.used[i] >= oldest}
        got = made.update(ids, oldest)
        placed, evicted, expired, turned_away = model.update(ids.tolist(), oldest)
        assert {*got.new_ids.tolist()} == placed
        assert (got.evicted, got.expired, got.turned_away) == (evicted, expired, turned_away)
        for id_, row in zip(got.new_ids.tolist(), got.new_rows.tolist(), strict=True):
            model.give(id_, row)
        assert (np.diff(got.new_rows) > 0).all()
        for id_, row in zip(ids.tolist(), got.rows.tolist(), strict=True):
            assert row == model.row.get(id_, row)
            assert (row >= rules.oov_rows) == (id_ in model.row)
        assert before.items() <= model.row.items()  # nothing in flight has lost its row
        found = made.find(ALL_IDS)
        assert {
            i: r
            for i, r in zip(ALL_IDS.tolist(), found.tolist(), strict=True)
            if r >= rules.oov_rows
        } == model.row
        assert made.num_ids == len(model.row)
        assert np.array_equal(
            found[found < rules.oov_rows], made.shared_rows(ALL_IDS[found < rules.oov_rows])
        )


def test_rows_that_were_free_beside_candidates_for_eviction_are_taken_first_if_used_least() -> None:
    made = SmallMap(21, MapRules("lfu", 1, 1, None))
    every, often, late, later = (np.arange(*each) for each in ((18,), (9, 18), (20, 25), (30, 35)))
    for ids in (every, every, often, often, late):
        got = made.update(ids, made.clock + 1)
    assert got.evicted == 3, "two of the rows were free"
    before = every[made.index.find(every) >= 0]
    assert made.update(later, made.clock + 1).evicted == 5
    assert (made.index.find(late) < 0).all(), "their ids were used once"
    assert (made.index.find(before) >= 0).all(), "these twice and more often"


@settings(max_examples=100, deadline=None)
@given(rules, st.integers(1, 12), streams)
def test_distinct_ids_with_their_numbers_are_seen_as_repeated_ones(
    rules: MapRules, own_rows: int, stream: list[tuple[list[int], int]]
) -> None:
    one, other = (SmallMap(rules.oov_rows + own_rows, rules) for _ in range(2))
    for numbers, in_flight in stream:
        ids, oldest = ALL_IDS[numbers], one.clock + 1 - in_flight
        distinct, inverse, times = np.unique(ids, return_inverse=True, return_counts=True)
        wanted, found = one.update(ids, oldest), other.update(distinct, oldest, times)
        assert np.array_equal(found.rows.take(inverse), wanted.rows)
        for name in ("new_rows", "new_ids"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name))
        for name in ("evicted", "expired", "turned_away", "shared"):
            assert getattr(found, name) == getattr(wanted, name)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_index_is_a_dict(data: st.DataObject) -> None:
    index, model = IdIndex(20), {}
    any_id = st.integers(-3, 20) | st.integers(-(2**63), 2**63 - 1)
    for _ in range(data.draw(st.integers(1, 15))):
        room = 20 - len(model)
        new = sorted(data.draw(st.sets(any_id, max_size=room)) - {*model})
        rows = [r for r in range(20) if r not in model.values()][: len(new)]
        index.insert(np.array(new, np.int64), np.array(rows, np.int32))
        model.update(zip(new, rows, strict=True))
        asked = [*model, *data.draw(st.lists(any_id, max_size=5))]
        found = index.find(np.array(asked, np.int64))
        assert found.tolist() == [model.get(each, -1) for each in asked]
        assert index.ids_of(np.array([*model.values()], np.int32)).tolist() == [*model]
        gone = data.draw(st.sets(st.sampled_from([*model]))) if model else set()
        index.remove(np.array([model.pop(each) for each in gone], np.int32))
        assert {*np.flatnonzero(index.has_id()).tolist()} == {*model.values()}


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 300)), max_size=8), max_size=8)
)
def test_a_sketch_counts_no_id_too_low_until_it_forgets(
    batches: list[list[tuple[int, int]]],
) -> None:
    sketch, exact = CountMinSketch(10_000), dict[int, int]()
    for batch in batches:
        times = dict(batch)
        for id_, number in times.items():
            exact[id_] = exact.get(id_, 0) + number
        keys, numbers = np.array([*times], np.int64), np.array([*times.values()], np.int64)
        found = sketch.add(keys, numbers)
        assert (found >= np.minimum([exact[each] for each in times], MOST_COUNTED)).all()


def test_a_sketch_halves_its_counts_once_it_has_seen_four_a_cell() -> None:
    sketch = CountMinSketch(8)
    one, times = np.array([7], np.int64), np.array([30], np.int64)
    assert sketch.add(one, times).tolist() == [30]
    assert sketch.add(one, times).tolist() == [60]
    assert sketch.add(one, np.array([1], np.int64)).tolist() == [31]


@pytest.mark.parametrize("eviction", ["lru", "lfu", None])
def test_a_row_of_a_map_takes_at_most_40_bytes(eviction: str | None) -> None:
    made = IdMap(100_000, MapRules(eviction, 2, 1024, None))
    rng = np.random.default_rng(0)
    for _ in range(4):
        made.update(rng.integers(-(2**63), 2**63 - 1, 60_000, dtype=np.int64).repeat(2), 10**6)
    held = [*vars(made).values(), *vars(made.index).values(), made._sketch.cells]  # type: ignore[union-attr]
    held_bytes = sum(each.nbytes for each in held if isinstance(each, np.ndarray))
    assert made.nbytes == held_bytes <= 40 * 100_000


@pytest.mark.parametrize("new", [700, 12_000, 30_000])
def test_candidates_for_eviction_leave_a_row_within_40_bytes(new: int) -> None:
    made = IdMap(50_000, MapRules("lru", 1, 10, None))
    for step in range(12):
        made.update(np.arange(step * new, (step + 8) * new, dtype=np.int64), 10**6)
        assert made.nbytes <= 40 * 50_000


def test_an_index_whose_ids_change_all_the_time_finds_each_and_stays_mostly_empty() -> None:
    index, rng = IdIndex(1_000), np.random.default_rng(0)
    ids = rng.integers(-(2**63), 2**63 - 1, 1_000, dtype=np.int64)
    index.insert(ids, np.arange(1_000, dtype=np.int32))
    for _ in range(60):
        gone = rng.choice(1_000, 300, replace=False).astype(np.int32)
        index.remove(gone)
        assert (index.find(ids[gone]) == -1).all()
        ids[gone] = rng.integers(-(2**63), 2**63 - 1, 300)
        index.insert(ids[gone], gone)
        assert np.array_equal(index.find(ids), np.arange(1_000))
        assert (index._rows != -1).sum() == index._taken < 0.7 * index._size


def test_shared_rows_of_arrays_are_those_of_tensors() -> None:
    ids = np.concatenate([ALL_IDS, [-(2**63), -1, 0, 1, 2**63 - 1]])
    for number in (1, 7, 1_024, 2**30):
        wanted = shared_rows(torch.from_numpy(ids), number)
        assert shared_rows_of_array(ids, number).tolist() == wanted.tolist()

"""Maps of ids in checkpoints: fields beside the rows, by parts, for any number of devices."""

from __future__ import annotations

import json
import threading
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from checkpoints.crashes import Killed, deaths
from hypothesis import given, settings
from hypothesis import strategies as st
from models.maps import ALL_IDS, NUM_IDS, SmallMap, rules, streams
from safetensors import safe_open
from workers.live_worker import ALL_IDS as SOME_IDS
from workers.live_worker import Run, make, perform

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import __main__ as command
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.vocabularies.id_maps.id_map import IdMap, MapRules
from torch_tpu_embedding.vocabularies.id_maps.sketch import cells_a_row
from torch_tpu_embedding.vocabularies.id_maps.snapshot import TableSnapshot
from torch_tpu_embedding.vocabularies.owners import local_units, unit_rows
from torch_tpu_embedding.vocabularies.saved_maps import MapHead, blocks, restored

OLD = Path(__file__).parents[2] / "support" / "checkpoints" / "maps_in_extra_file"
NOBODY = np.empty(0, np.int64)


def train(embedding: tte.TPUEmbedding, ids: Any) -> None:
    rows = embedding({"item": torch.as_tensor(ids)})
    rows["item"].square().sum().backward()  # type: ignore[no-untyped-call]
    embedding.apply_gradients()
    tte.runtime.sync()


def one_table(rows: int = 60, padding_idx: int | None = None, **options: Any) -> tte.TPUEmbedding:
    given = {"oov_rows": 4, "admission": 2, **options}
    dtype = given.pop("dtype", torch.float32)
    vocabulary = tte.DynamicVocabulary(**given) if given.pop("live", True) else None
    table = tte.TableConfig(
        rows, 4, name="items", vocabulary=vocabulary, padding_idx=padding_idx, dtype=dtype
    )
    return tte.TPUEmbedding({"item": tte.FeatureConfig(table)}, 8, tte.Adagrad(0.1), seed=1)


def trained(steps: int = 6, **options: Any) -> tte.TPUEmbedding:
    made, rng = one_table(**options), np.random.default_rng(0)
    for _ in range(steps):
        train(made, ALL_IDS[rng.zipf(1.4, 8) % NUM_IDS])
    return made


def states(embedding: tte.TPUEmbedding) -> list[dict[str, Any]]:
    maps = embedding._tables.vocabularies
    assert maps is not None
    return maps.states(0)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def same_tables(one: tte.TPUEmbedding, other: tte.TPUEmbedding) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class InMemory:
    """The map of a table out of snapshots of the processes that hold it."""

    def __init__(
        self, snapshots: list[tuple[range, TableSnapshot]], head: MapHead, size: int
    ) -> None:
        self.vocabulary, self.head = size, head
        self._columns: dict[str, np.ndarray] = {}
        for ids, snapshot in snapshots:
            middle = len(ids) // 3
            parts = [
                snapshot.read(0, middle, head.cells),
                snapshot.read(middle, len(ids), head.cells),
            ]
            for name in parts[0]:
                column = np.concatenate([part[name] for part in parts])
                whole = self._columns.setdefault(
                    name, np.zeros((size, *column.shape[1:]), column.dtype)
                )
                whole[ids.start : ids.stop : ids.step] = column

    def read(self, rows: range) -> dict[str, np.ndarray]:
        some = slice(rows.start, rows.stop, rows.step)
        return {name: self._columns[name][some] for name in ("ids", "last_used", "count")}

    def read_sketch(self, rows: range) -> np.ndarray:
        return self._columns["sketch"][rows.start : rows.stop : rows.step]


@settings(max_examples=80, deadline=None, database=None)
@given(
    rules, streams, st.integers(1, 3), st.integers(1, 3), st.sampled_from(["mod", "div"]), st.data()
)
def test_a_map_that_is_saved_by_parts_while_it_goes_on_is_that_of_the_beginning(
    rules: MapRules,
    stream: list[tuple[list[int], int]],
    shards: int,
    devices: int,
    strategy: Any,
    data: st.DataObject,
) -> None:
    size = rules.oov_rows + data.draw(st.integers(1, 30))
    placements = [Placement(strategy, shards, rank, devices) for rank in range(shards)]
    maps = [
        [SmallMap(unit_rows(each, size, unit), rules) for unit in local_units(each, 0)]
        for each in placements
    ]
    begin = data.draw(st.integers(0, len(stream)))
    ahead = data.draw(st.integers(0, min(3, len(stream) - begin)))
    journals: list[list[list[Any]]] = []
    wanted: list[list[dict[str, Any]]] = []
    snapshots: list[TableSnapshot] = []

    def snap() -> None:
        before = journals[-ahead:][::-1] if ahead else []
        for rank, placement in enumerate(placements):
            units = local_units(placement, 0)
            earlier = [
                each.before([j[rank][number] for j in before], NOBODY)
                for number, each in enumerate(maps[rank])
            ]
            offsets = [unit // shards for unit in units]
            snapshots.append(TableSnapshot(earlier, units, offsets, threading.Lock()))

    for number, (numbers, in_flight) in enumerate(stream):
        if number == begin:
            wanted = [[each.state(NOBODY) for each in mine] for mine in maps]
        journals.append([])
        for rank, mine in enumerate(maps):
            journals[-1].append([])
            for map_ in mine:
                oldest = map_.clock + 1 - in_flight
                journals[-1][-1].append(map_.update(ALL_IDS[numbers], oldest).journal)
            if snapshots:
                snapshots[rank].note(journals[-1][rank])
        if number + 1 == begin + ahead and not snapshots and wanted:
            snap()
    if not snapshots:
        wanted = [[each.state(NOBODY) for each in mine] for mine in maps]
        ahead = 0
        snap()
    sightings = {unit: n for each in snapshots for unit, n in each.sightings.items()}
    counts = [len(unit_rows(placements[0], size, unit)) for unit in range(shards * devices)]
    head = MapHead(
        snapshots[0].clock,
        [sightings[unit] for unit in range(shards * devices)],
        strategy,
        shards,
        devices,
        cells_a_row(counts) if rules.admission > 1 else 0,
    )
    ids = [each.ids(0, size) for each in placements]
    saved = InMemory([*zip(ids, snapshots, strict=True)], head, size)
    with mock.patch("torch_tpu_embedding.vocabularies.saved_maps._BLOCK_ROWS", 7):
        for rank, placement in enumerate(placements):
            found = restored(saved, placement, 0, size, rules)
            assert found.moves is None
            assert found.left_out == 0
            for made, state in zip(found.maps, wanted[rank], strict=True):
                got = made.state(NOBODY)
                if not len(made.rows):  # no row can keep the sketch of a map that has none
                    got["sketch"] = state["sketch"]
                assert same(got, state)


def test_the_fields_of_a_map_lie_beside_the_rows(tmp_path: Path) -> None:
    saved = trained()
    checkpoint.save(saved, tmp_path, 1, {"mine": 3})
    step = tmp_path / "step-1"
    index = json.loads((step / "model.safetensors.index.json").read_text())
    found = {}
    for name in ("ids", "last_used", "count"):
        key = f"items.vocabulary_{name}"
        with safe_open(step / index["weight_map"][key], "np") as file:
            found[name] = file.get_tensor(key)
    (state,) = states(saved)
    rows = np.flatnonzero(found["count"])
    assert len(rows) == len(state["ids"]) > 5
    assert np.array_equal(rows, state["rows"])
    for name in found:
        assert np.array_equal(found[name][rows], state[name])
        assert not np.delete(found[name], rows).any()
    assert checkpoint.open(tmp_path).extra() == {"mine": 3}


def test_a_step_is_read_by_rows_of_its_map(tmp_path: Path) -> None:
    saved = trained()
    checkpoint.save(saved, tmp_path, 1)
    reader = checkpoint.open(tmp_path)
    map_ = reader.map("items")
    assert map_ is not None
    (state,) = states(saved)
    (whole,) = blocks(map_, range(60))
    assert all(np.array_equal(whole[name], state[name]) for name in whole)
    some = map_.read(range(7, 50, 3))
    assert all(np.array_equal(v, map_.read(range(60))[k][7:50:3]) for k, v in some.items())
    rows = np.array([0, 1, 7, 8, 33, 59])
    picked = reader.read_rows("items", "accumulators", rows)
    assert np.array_equal(picked, reader.read("items", "accumulators", 0, 60).numpy()[rows])


@pytest.mark.parametrize(("shards", "strategy"), [(3, "mod"), (2, "div"), (1, "mod")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_that_is_written_again_is_the_same_map(
    tmp_path: Path, shards: int, strategy: str, dtype: torch.dtype
) -> None:
    saved = trained(dtype=dtype)
    checkpoint.save(saved, tmp_path / "one", 1, "mine")
    line = [tmp_path / "one", tmp_path / "two", "--shards", shards, "--strategy", strategy]
    assert command.main(["reshard", *map(str, line)]) == 0
    again = one_table(dtype=dtype)
    assert checkpoint.load(again, tmp_path / "two").extra == "mine"
    assert same_tables(again, saved)
    assert all(map(same, states(again), states(saved))), "with the sketch"


def test_changed_rows_picked_out_of_deltas_are_those_of_the_chain(tmp_path: Path) -> None:
    saved = trained(2)
    checkpoint.save(saved, tmp_path, 1)
    for step in (2, 3):
        train(saved, ALL_IDS[4 * step : 4 * step + 4].repeat(2))
        checkpoint.save(saved, tmp_path, step, since=step - 1, max_file_bytes=64)
    reader = checkpoint.open(tmp_path)
    assert reader.index.base is not None
    for field in ("weight", "accumulators"):
        whole = reader.read("items", field, 0, 60).numpy()
        assert np.array_equal(reader.read_rows("items", field, np.arange(60)), whole)
        assert np.array_equal(reader.read_rows("items", field, np.arange(3, 60, 9)), whole[3::9])
    again = one_table()
    checkpoint.load(again, tmp_path)
    assert same_tables(again, saved)
    (map_,) = states(again)
    assert same(map_, states(saved)[0])


@pytest.mark.parametrize("step", [6, 8])
@pytest.mark.parametrize("resharded", [False, True])
def test_maps_that_earlier_versions_put_into_the_extra_file_load(
    tmp_path: Path, step: int, resharded: bool
) -> None:
    path = OLD
    if resharded:
        path = tmp_path / "again"
        line = [str(OLD), str(path), "--shards", "3", "--step", str(step)]
        assert command.main(["reshard", *line]) == 0
        assert checkpoint.open(path).tables["live"].map is not None
    embedding = make(Run(0, 0, rows=48))
    loaded = checkpoint.load(embedding, path, step)
    assert loaded.extra is None
    (state,) = states(embedding)
    assert state["clock"] == step
    assert len(state["ids"]) == {6: 22, 8: 24}[step]
    if step == 8:
        wanted = json.loads((OLD / "rows.json").read_text())
        ids = torch.from_numpy(SOME_IDS)
        assert torch.equal(embedding.read_rows("live", ids), torch.tensor(wanted["weight"]))
        slots = embedding.read_rows("live", ids, slot="accumulators")
        assert torch.equal(slots, torch.tensor(wanted["slot"]))


def test_a_run_goes_on_from_an_old_checkpoint_as_from_its_copy(tmp_path: Path) -> None:
    first = make(Run(0, 0, rows=48))
    checkpoint.load(first, OLD)
    checkpoint.save(first, tmp_path, 8)
    on = Run(8, 11, rows=48)
    old, new = (perform(Run(**{**vars(on), "load": str(each)})) for each in (OLD, tmp_path))
    assert old == new


def test_inspection_counts_the_ids_of_both_forms(tmp_path: Path, capsys: Any) -> None:
    for path, name in ((OLD, "live"), (tmp_path, "items")):
        if path is tmp_path:
            checkpoint.save(trained(), path, 1)
        capsys.readouterr()
        assert command.main(["inspect", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["step"]["tables"]
        (table,) = (each for each in found if each["name"] == name)
        assert table["vocabulary"]["ids"] > 5
        assert 0 < table["vocabulary"]["occupancy"] < 1


@pytest.mark.parametrize("background", [False, True])
def test_a_step_is_that_of_its_beginning_though_others_are_enqueued_while_it_is_written(
    tmp_path: Path, background: bool
) -> None:
    saved = trained(rows=20, eviction="lru")
    wanted, later = states(saved), iter(range(100))
    real = TableSnapshot.read

    def read(self: TableSnapshot, start: int, stop: int, cells: int) -> dict[str, Any]:
        number = next(later)
        if number in (0, 2):
            saved.enqueue({"item": torch.from_numpy(ALL_IDS[7 * number :][:4].repeat(2))})
        return real(self, start, stop, cells)

    with (
        mock.patch("torch_tpu_embedding.checkpoint.writing.map_blocks.BLOCK_BYTES", 80),
        mock.patch.object(TableSnapshot, "read", read),
    ):
        checkpoint.save(saved, tmp_path, 1, asynchronous=background).wait()
    assert next(later) > 3
    again = one_table(rows=20, eviction="lru")
    checkpoint.load(again, tmp_path)
    assert all(map(same, states(again), wanted))
    saved.discard()


def test_training_that_goes_on_beside_a_background_save_does_not_reach_it(tmp_path: Path) -> None:
    saved = trained(rows=20, eviction="lfu")
    wanted, tables = states(saved), saved.state_dict()
    handle = checkpoint.save(saved, tmp_path, 1, asynchronous=True)
    for number in range(5):
        train(saved, ALL_IDS[4 * number : 4 * number + 4].repeat(2))
    handle.wait()
    again = one_table(rows=20, eviction="lfu")
    checkpoint.load(again, tmp_path)
    assert all(map(same, states(again), wanted))
    assert all(torch.equal(value, tables[key]) for key, value in again.state_dict().items())


def test_a_save_that_fails_within_a_map_leaves_the_last_step_as_it_was(tmp_path: Path) -> None:
    saved = trained()
    checkpoint.save(saved, tmp_path, 1)
    wanted, tables = states(saved), saved.state_dict()
    train(saved, ALL_IDS[:8])
    for since in (None, 1):
        with (
            mock.patch.object(TableSnapshot, "read", side_effect=OSError("no space")),
            pytest.raises(OSError, match="no space"),
        ):
            checkpoint.save(saved, tmp_path, 2, since=since)
        assert checkpoint.complete_steps(tmp_path) == [1]
        assert not [*tmp_path.glob("step-2/*")]
    again = one_table()
    checkpoint.load(again, tmp_path)
    assert all(map(same, states(again), wanted))
    assert all(torch.equal(value, tables[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("since", [None, 1])
def test_a_save_killed_at_any_operation_leaves_a_step_with_its_map(
    tmp_path: Path, since: int | None
) -> None:
    saved, again, seen = trained(), one_table(), set()
    for last in count():
        run = tmp_path / str(last)
        checkpoint.save(saved, run, 1)
        before = states(saved), saved.state_dict()
        train(saved, ALL_IDS[last % 30 : last % 30 + 8])
        with pytest.MonkeyPatch.context() as patch:
            deaths(patch, last)
            try:
                checkpoint.save(saved, run, 2, since=since)
                survived = True
            except Killed:
                survived = False
        step = checkpoint.load(again, run).step
        seen.add(step)
        wanted, tables = before if step == 1 else (states(saved), saved.state_dict())
        assert all(map(same, states(again), wanted))
        assert all(torch.equal(value, tables[key]) for key, value in again.state_dict().items())
        if survived:
            break
    assert seen == {1, 2}
    assert last > 30


def test_a_flipped_bit_in_a_map_is_an_error(tmp_path: Path) -> None:
    checkpoint.save(trained(), tmp_path, 1)
    (path,) = tmp_path.glob("step-1/vocabulary_ids-*")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"damaged.*items\.vocabulary_ids"):
        checkpoint.load(one_table(), tmp_path)
    assert command.main(["verify", str(tmp_path)]) == 1


def test_an_id_that_two_rows_have_is_an_error(tmp_path: Path) -> None:
    saved = trained()
    real = TableSnapshot.read

    def read(self: TableSnapshot, start: int, stop: int, cells: int) -> dict[str, Any]:
        found = real(self, start, stop, cells)
        found["ids"][:] = 7
        return found

    with mock.patch.object(TableSnapshot, "read", read):
        checkpoint.save(saved, tmp_path, 1)
    with pytest.raises(checkpoint.CheckpointError, match="'items': its map cannot be read"):
        checkpoint.load(one_table(), tmp_path)


def test_a_vocabulary_that_is_there_on_one_side_alone(tmp_path: Path) -> None:
    checkpoint.save(trained(), tmp_path / "live", 1)
    plain = one_table(live=False)
    with pytest.raises(ValueError, match=r"found by DynamicVocabulary\(.*\) in the checkpoint"):
        checkpoint.load(plain, tmp_path / "live")
    checkpoint.save(plain, tmp_path / "plain", 1)
    assert not [*(tmp_path / "plain").glob("step-1/vocabulary_*")]
    larger = one_table(rows=64)
    checkpoint.load(larger, tmp_path / "plain")
    assert states(larger)[0]["ids"].tolist() == [*range(60)]


def test_padding_has_no_row_before_and_after(tmp_path: Path) -> None:
    saved = one_table(padding_idx=int(ALL_IDS[3]))
    for _ in range(3):
        train(saved, ALL_IDS[:8])
    checkpoint.save(saved, tmp_path, 1)
    again = one_table(padding_idx=int(ALL_IDS[3]))
    checkpoint.load(again, tmp_path)
    assert same_tables(again, saved)
    assert ALL_IDS[3] not in states(again)[0]["ids"]
    assert len(states(again)[0]["ids"]) == 7


def test_ids_beyond_the_end_of_a_sequence_are_not_seen() -> None:
    vocabulary = tte.DynamicVocabulary()
    table = tte.TableConfig(20, 4, name="items", vocabulary=vocabulary)
    features = {"seen": tte.FeatureConfig(table, max_sequence_length=2)}
    embedding = tte.TPUEmbedding(features, 2, tte.Adagrad(0.1), seed=1)
    found = embedding({"seen": tte.Ragged.from_lists([[7, 8, 9], [5]])})["seen"]
    found.sum().backward()
    embedding.apply_gradients()
    tte.runtime.sync()
    assert sorted(states(embedding)[0]["ids"].tolist()) == [5, 7, 8]


def test_frequencies_stay_where_the_rule_of_eviction_changes(tmp_path: Path) -> None:
    saved = trained(eviction="lfu")
    (wanted,) = states(saved)
    assert wanted["count"].max() > 2
    paths = [tmp_path / each for each in ("lfu", "lru", "none")]
    checkpoint.save(saved, paths[0], 1)
    for path, following, eviction in zip(paths, paths[1:], ("lru", None), strict=False):
        each = one_table(eviction=eviction)
        checkpoint.load(each, path)
        assert same(states(each)[0], wanted)
        checkpoint.save(each, following, 1)


def test_a_table_without_shared_sketches_writes_none(tmp_path: Path) -> None:
    checkpoint.save(trained(admission=1), tmp_path, 1)
    assert not [*tmp_path.glob("step-1/vocabulary_sketch*")]
    head = checkpoint.open(tmp_path).tables["items"].map
    assert head is not None
    assert head.cells == 0


def test_a_write_of_fields_named_as_those_of_maps_is_refused(tmp_path: Path) -> None:
    fields = {"weight": torch.ones(3, 2), "vocabulary_ids": torch.ones(3, 2)}
    with pytest.raises(ValueError, match="'vocabulary_ids' has shape"):
        checkpoint.write_tables(tmp_path, 1, {"t": fields})


def test_a_map_of_another_table_is_refused(tmp_path: Path) -> None:
    checkpoint.save(trained(), tmp_path, 1)
    reader = checkpoint.open(tmp_path)
    source = checkpoint.TableSource(
        {"weight": torch.ones(9, 4)},
        vocabulary=reader.tables["items"].vocabulary,
        map=reader.map("items"),
    )
    with pytest.raises(ValueError, match="the map is one of 60 rows, but the weight has 9"):
        checkpoint.write_tables(tmp_path, 2, {"t": source})


def test_a_snapshot_holds_no_copy_of_a_map() -> None:
    map_ = IdMap(200_000, MapRules("lru", 1, 1, None))
    map_.update(np.arange(150_000, dtype=np.int64), 1)
    earlier = map_.before([], NOBODY)
    held = [each for each in vars(earlier.changed).values() if isinstance(each, np.ndarray)]
    own = sum(each.nbytes for each in held if each is not map_.uses)
    assert own + earlier.sketch.nbytes == 0
    mapped = map_.update(np.arange(100, dtype=np.int64), 2)
    earlier.changed.note(mapped.journal)
    assert len(earlier.changed._rows) == 100

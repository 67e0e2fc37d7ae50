"""Tables whose ids are row numbers, and tables with a DynamicVocabulary, made into each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import helpers

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import __main__ as command
from torch_tpu_embedding.checkpoint.convert import rows_by_id
from torch_tpu_embedding.checkpoint.reading.reader import Reader
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.vocabularies.id_maps.id_map import MapRules
from torch_tpu_embedding.vocabularies.owners import local_units, owners, unit_rows
from torch_tpu_embedding.vocabularies.saved_maps import NumberedRows, restored

V, D, OOV = 11, 4, 3


def live(rows: int = V + OOV, device: str | None = None, **options: Any) -> tte.TPUEmbedding:
    """A table that ids come to and leave."""
    vocabulary = tte.DynamicVocabulary(oov_rows=OOV)
    table = tte.TableConfig(rows, D, name="t", vocabulary=vocabulary, **options)
    features = [tte.FeatureConfig(table, name="f")]
    return tte.TPUEmbedding(features, 4, tte.Adagrad(0.1), seed=0, device=device)


def numbered(directory: Path, **options: Any) -> tte.TPUEmbedding:
    """A table whose ids are row numbers, trained and saved."""
    features = [tte.FeatureConfig(tte.TableConfig(V, D, name="t", **options))]
    embedding = tte.TPUEmbedding(features, 4, tte.Adagrad(0.1), seed=3)
    for start in range(3):
        helpers.train_step(embedding, [torch.arange(start, start + 8, 2)])
    checkpoint.save(embedding, directory, 1)
    return embedding


def run(*arguments: object) -> int:
    return command.main([*map(str, arguments)])


def fields_of(embedding: tte.TPUEmbedding, ids: torch.Tensor) -> list[torch.Tensor]:
    """Weights and slots by id."""
    return [embedding.read_rows("t", ids, slot=slot) for slot in (None, "accumulators")]


def assert_same_fields(one: tte.TPUEmbedding, other: tte.TPUEmbedding, ids: torch.Tensor) -> None:
    for a, b in zip(fields_of(one, ids), fields_of(other, ids), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_row_numbers_of_tensorflow_become_ids_and_go_on_as_such(
    device: str | None, tmp_path: Path
) -> None:
    source = numbered(tmp_path / "plain")
    assert run("to-tensorflow", tmp_path / "plain", tmp_path / "tf" / "ckpt-1") == 0
    assert run("from-tensorflow", tmp_path / "tf", tmp_path / "run", "--step", 5) == 0
    embedding = live(device=device)
    shared = embedding.table_weight("t", 0, OOV)
    assert checkpoint.load(embedding, tmp_path / "run").step == 5
    assert_same_fields(embedding, source, torch.arange(V))
    assert torch.equal(embedding.table_weight("t", 0, OOV), shared)
    assert embedding.state_dict()["t.ids"][1:, 0].sort().values.tolist() == [*range(V)]
    other = embedding.read_rows("t", [-1, V, 2**60])
    assert (other[:, None] == shared).all(-1).any(-1).all()
    if device is None:
        ids = torch.tensor([0, 2, 4, 10])
        for each in (source, embedding):
            helpers.train_step(each, [ids])
        assert_same_fields(embedding, source, torch.arange(V))


def test_a_table_with_a_vocabulary_is_written_by_id_and_comes_back_the_same(tmp_path: Path) -> None:
    numbered(tmp_path / "plain")
    embedding = live()
    checkpoint.load(embedding, tmp_path / "plain")
    checkpoint.save(embedding, tmp_path / "live", 2)
    assert run("to-tensorflow", tmp_path / "live", tmp_path / "ckpt") == 0
    assert run("from-tensorflow", tmp_path / "ckpt", tmp_path / "back", "--step", 1) == 0
    with (
        checkpoint.open(tmp_path / "plain") as wanted,
        checkpoint.open(tmp_path / "back") as found,
    ):
        assert found.tables["t"].vocabulary_size == V
        for field in ("weight", "accumulators"):
            assert torch.equal(found.read("t", field, 0, V), wanted.read("t", field, 0, V))


def test_row_i_is_what_inference_finds_for_id_i_with_or_without_a_row_of_its_own(
    tmp_path: Path,
) -> None:
    embedding = live(9)
    helpers.train_step(embedding, [torch.tensor([0, 2, 11, 5])])
    checkpoint.save(embedding, tmp_path / "live", 2)
    assert run("to-tensorflow", tmp_path / "live", tmp_path / "ckpt", "--rows", "t=13") == 0
    assert run("from-tensorflow", tmp_path / "ckpt", tmp_path / "back", "--step", 1) == 0
    with checkpoint.open(tmp_path / "back") as found:
        assert found.tables["t"].vocabulary_size == 13
        assert torch.equal(found.read("t", "weight", 0, 13), embedding.read_rows("t", range(13)))


def test_ids_that_are_no_row_numbers_are_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedding = live(9)
    helpers.train_step(embedding, [torch.tensor([0, 2, 11, 6])])
    checkpoint.save(embedding, tmp_path, 1)
    to = ["to-tensorflow", tmp_path, tmp_path / "ckpt"]
    assert run(*to) == 2
    told = capsys.readouterr().err
    assert "table 't': id 6 has a row (2 of 4 ids are like it)" in told
    assert "here 0 … 5; give --rows t=12, leave the table out" in told
    assert not (tmp_path / "ckpt.index").exists()
    assert run(*to, "--rows", "t=12") == 0
    helpers.train_step(embedding, [torch.tensor([0, 2, 11, -6])])
    checkpoint.save(embedding, tmp_path, 2)
    assert run(*to, "--rows", "t=12") == 2
    told = capsys.readouterr().err
    assert "table 't': id -6 has a row" in told
    assert "give --rows" not in told
    assert "export_serving" in told
    served = tte.export_serving(embedding)({"f": torch.tensor([-6])})["f"]
    assert torch.equal(served, embedding.read_rows("t", [-6]))


@pytest.mark.parametrize("rows", ["t", "t=0", "t=x", "u=4", "=4"])
def test_a_wrong_number_of_rows_is_refused(
    rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(live(device="cpu"), tmp_path, 1)
    assert run("to-tensorflow", tmp_path, tmp_path / "ckpt", "--rows", rows) == 2
    assert "--rows: expected NAME=N with N of at least 1" in capsys.readouterr().err


def test_too_few_rows_for_all_row_numbers_are_refused_and_both_remedies_work(
    tmp_path: Path,
) -> None:
    source = numbered(tmp_path)
    small = live(V + OOV - 1)
    before = helpers.tensors(small)
    with pytest.raises(
        ValueError, match=r"'t': the 11 row numbers.*10 rows beside its 3 oov_rows"
    ) as e:
        checkpoint.load(small, tmp_path)
    for key, value in helpers.tensors(small).items():
        assert torch.equal(value, before[key])
    assert "give TableConfig 14 rows or more, or pass resize='allow'" in str(e.value)
    checkpoint.load(small, tmp_path, resize="allow")
    assert small.state_dict()["t.ids"][1:, 0].tolist() == [*range(V - 1)]
    assert_same_fields(small, source, torch.arange(V - 1))
    for rows in (14, 40):
        large = live(rows)
        checkpoint.load(large, tmp_path)
        assert_same_fields(large, source, torch.arange(V))


def test_tables_are_written_by_id_with_a_few_rows_in_memory_from_shards_and_deltas(
    tmp_path: Path,
) -> None:
    embedding = live(40 + OOV)
    ids = torch.from_numpy(np.random.default_rng(0).permutation(40))
    for step, part in enumerate(ids.split(20), 1):
        for some in part.split(4):
            helpers.train_step(embedding, [some])
        checkpoint.save(embedding, tmp_path / "live", step, since=step - 1 or None)
    assert run("reshard", tmp_path / "live", tmp_path / "shards", "--shards", 3) == 0
    most: list[int] = []
    real = Reader.read_rows

    def read(self: Reader, table: str, field: str, rows: Any) -> Any:
        most.append(len(rows))
        return real(self, table, field, rows)

    for path in (tmp_path / "live", tmp_path / "shards"):
        with (
            mock.patch.object(rows_by_id, "block_rows", return_value=7),
            mock.patch.object(Reader, "read_rows", read),
            mock.patch.object(Reader, "read", side_effect=AssertionError),
        ):
            assert run("to-tensorflow", path, path / "tf" / "ckpt-1") == 0
        assert max(most) == 7
        target = path / "back"
        assert run("from-tensorflow", path / "tf", target, "--step", 1) == 0
        reader = checkpoint.open(target)
        for field, slot in (("weight", None), ("accumulators", "accumulators")):
            rows = embedding.read_rows("t", torch.arange(40), slot=slot)
            assert torch.equal(reader.read("t", field, 0, 40), rows)


def test_the_row_number_of_padding_becomes_no_id(tmp_path: Path) -> None:
    source = numbered(tmp_path, padding_idx=4)
    embedding = live(padding_idx=4)
    checkpoint.load(embedding, tmp_path)
    rest = torch.tensor([n for n in range(V) if n != 4])
    assert embedding.state_dict()["t.ids"][1:, 0].tolist() == rest.tolist()
    assert_same_fields(embedding, source, rest)


def test_the_other_way_round_is_refused(tmp_path: Path) -> None:
    checkpoint.save(live(device="cpu"), tmp_path, 1)
    plain = tte.TableConfig(V + OOV, D, name="t")
    embedding = tte.TPUEmbedding({"f": tte.FeatureConfig(plain)}, 4, tte.Adagrad(0.1), device="cpu")
    with pytest.raises(ValueError, match=r"found by DynamicVocabulary\(.*\) in the checkpoint"):
        checkpoint.load(embedding, tmp_path)


@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["mod", "div"]), st.integers(0, 40))
def test_on_any_processes_and_devices_each_row_number_goes_to_the_device_that_owns_it(
    shards: int, devices: int, strategy: Any, saved: int
) -> None:
    rules, rows = MapRules("lru", 1, OOV, None), 40 + OOV
    found: dict[int, int] = {}
    for rank in range(shards):
        placement = Placement(strategy, shards, rank, devices)
        loaded = restored(NumberedRows(saved, None), placement, 0, rows, rules)
        maps, moves = loaded.maps, loaded.moves
        assert moves is not None
        by_row = dict(zip(moves.targets.tolist(), moves.sources.tolist(), strict=True))
        for unit, made in zip(local_units(placement, 0), maps, strict=True):
            state = made.state(np.empty(0, np.int64))
            room = len([row for row in unit_rows(placement, rows, unit) if row >= OOV])
            mine = np.flatnonzero(owners(np.arange(saved), placement.num_devices) == unit)
            assert sorted(state["ids"].tolist()) == mine[:room].tolist()
            for id_, row in zip(state["ids"].tolist(), state["rows"].tolist(), strict=True):
                assert row in unit_rows(placement, rows, unit)
                assert by_row.pop(row) == id_
                found[id_] = row
        assert not by_row
    assert len({*found.values()}) == len(found)

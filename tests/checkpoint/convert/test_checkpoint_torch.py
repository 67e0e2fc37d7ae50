"""From and to plain torch: modules, TorchRec keys, single files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.checkpoint_fakes import (
    FakeEmbedding,
    FakeShard,
    assert_same,
    random_values,
    table,
    whole,
)
from processes.worlds import ThreadGroup, run_processes
from safetensors.torch import load_file
from torch import nn

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import rows as shard_module

TABLES = [table("user", 20), table("item", 5, 2)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "BLOCK_BYTES", 50)


@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_modules_become_weights_and_slots_stay(strategy: str) -> None:
    modules = {"user": nn.Embedding(20, 4), "item": nn.EmbeddingBag(5, 2).to(torch.bfloat16)}
    start = random_values(TABLES)

    def work(group: ThreadGroup) -> FakeShard:
        embedding = FakeEmbedding(TABLES, group, strategy, start)
        checkpoint.import_modules(embedding, modules)
        return embedding.shard

    found = whole(run_processes(3, work))
    assert torch.equal(found["user"]["weight"], modules["user"].weight)
    assert torch.equal(found["item"]["weight"], modules["item"].weight.float())
    assert_same(found, {name: {"accumulators": start[name]["accumulators"]} for name in start})


def test_torchrec_keys_become_weights() -> None:
    state = {
        "model.ebc.embedding_bags.user.weight": torch.rand(20, 4),
        "seq.embeddings.thing.weight": torch.rand(5, 2),
        "model.over.weight": torch.rand(3),
    }
    embedding = FakeEmbedding(TABLES)
    names = checkpoint.import_state_dict(embedding, state, rename={"thing": "item"})
    assert names == ["user", "item"]
    found = whole([embedding.shard])
    assert torch.equal(found["user"]["weight"], state["model.ebc.embedding_bags.user.weight"])
    assert torch.equal(found["item"]["weight"], state["seq.embeddings.thing.weight"])


@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_arrays_of_numpy_become_weights_memory_maps_too(tmp_path: Path, strategy: str) -> None:
    rng = np.random.default_rng(0)
    user, item = rng.random((20, 4)), rng.random((5, 2), np.float32).astype(">f4")
    np.save(tmp_path / "user.npy", user)

    def work(group: ThreadGroup) -> FakeShard:
        embedding = FakeEmbedding(TABLES, group, strategy)
        mapped = np.load(tmp_path / "user.npy", mmap_mode="r")
        checkpoint.import_modules(embedding, {"user": mapped, "item": item})
        return embedding.shard

    found = whole(run_processes(3, work))
    np.testing.assert_array_equal(found["user"]["weight"], user.astype(np.float32))
    np.testing.assert_array_equal(found["item"]["weight"], item)
    np.savez(tmp_path / "tables.npz", users=user, item=item)
    embedding = FakeEmbedding(TABLES)
    with np.load(tmp_path / "tables.npz") as state:
        names = checkpoint.import_state_dict(embedding, state, {"users": "user", "item": "item"})
    assert names == ["user", "item"]
    assert torch.equal(whole([embedding.shard])["item"]["weight"], found["item"]["weight"])


def test_dlrms_numbered_tables_and_keys_of_any_name_are_imported_by_rename() -> None:
    state = {
        "module.emb_l.0.weight": torch.rand(20, 4),
        "module.emb_l.1.weight": torch.rand(5, 2),
        "module.top_l.0.weight": torch.rand(3, 3),
    }
    embedding = FakeEmbedding(TABLES)
    names = checkpoint.import_state_dict(embedding, state, rename={"0": "user", "1": "item"})
    assert names == ["user", "item"]
    found = whole([embedding.shard])
    assert torch.equal(found["user"]["weight"], state["module.emb_l.0.weight"])
    assert torch.equal(found["item"]["weight"], state["module.emb_l.1.weight"])
    embedding = FakeEmbedding(TABLES)
    model = nn.ModuleDict({"user_table": nn.Embedding(20, 4), "head": nn.Linear(2, 2)})
    checkpoint.import_state_dict(
        embedding, model.state_dict(), rename={"user_table.weight": "user"}
    )
    assert torch.equal(whole([embedding.shard])["user"]["weight"], model["user_table"].weight)


def test_a_table_without_a_name_here_and_a_rename_of_nothing_are_errors() -> None:
    embedding = FakeEmbedding(TABLES)
    state = {"emb_l.0.weight": torch.rand(20, 4)}
    with pytest.raises(ValueError) as caught:
        checkpoint.import_state_dict(embedding, state)
    assert str(caught.value) == (
        "'emb_l.0.weight': the embedding has no table '0', it holds ['item', 'user']; leave the key out, "
        "or pass rename={'0': …}"
    )
    with pytest.raises(
        ValueError, match=r"rename: the state dict has no \['usr'\]; its keys begin with"
    ):
        checkpoint.import_state_dict(embedding, state, rename={"0": "user", "usr": "item"})
    assert not whole([embedding.shard])["user"]["weight"].any()


def test_an_import_that_fails_on_one_process_fails_on_all() -> None:
    def work(group: ThreadGroup) -> None:
        state = {} if group.rank else {"embeddings.user.weight": torch.rand(20, 4)}
        checkpoint.import_state_dict(FakeEmbedding(TABLES, group), state)

    with pytest.raises(ValueError, match="no key of the form"):
        run_processes(2, work)


def test_rows_that_are_no_floats_are_not_written_as_some(tmp_path: Path) -> None:
    for rows in (torch.ones(2, 2, dtype=torch.int64), np.ones((2, 2), np.int32), np.ones((2, 2), bool),
                 torch.ones(2, 2, dtype=torch.complex64)):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"table 't': 'weight' gives rows of .*, expected floats"
        ):
            checkpoint.write_tables(tmp_path, 1, {"t": {"weight": rows}})
    assert checkpoint.complete_steps(tmp_path) == []
    checkpoint.write_tables(tmp_path, 1, {"t": {"weight": np.ones((2, 2), np.int32).astype(float)}})


def test_what_does_not_fit_is_named_and_nothing_changes() -> None:
    embedding = FakeEmbedding(TABLES)
    given = {
        "user": nn.Embedding(19, 4), "film": torch.zeros(2, 2), "item": torch.zeros(5, 2, dtype=int)
    }  # fmt: skip
    with pytest.raises(ValueError) as caught:
        checkpoint.import_modules(embedding, given)
    text = str(caught.value)
    assert "table 'user': expected floats of shape [20, 4] (vocabulary_size, dim), got" in text
    assert "'film' is no table of the embedding, which holds ['item', 'user']" in text
    assert (
        "table 'item': expected floats of shape [5, 2] (vocabulary_size, dim), got torch.int64"
        in text
    )
    with pytest.raises(ValueError, match="got str; gather a sharded tensor first"):
        checkpoint.import_modules(embedding, {"user": "x", "item": torch.ones(5, 2)})
    assert not whole([embedding.shard])["item"]["weight"].any()
    with pytest.raises(ValueError, match="no key of the form embedding_bags"):
        checkpoint.import_state_dict(embedding, {"a.weight": torch.zeros(2)})
    state = {f"{each}.embeddings.user.weight": torch.zeros(20, 4) for each in "ab"}
    with pytest.raises(ValueError, match="a second tensor for table 'user'"):
        checkpoint.import_state_dict(embedding, state)


def test_an_import_ends_what_deltas_could_stand_on(tmp_path: Path) -> None:
    embedding = FakeEmbedding(TABLES)
    checkpoint.save(embedding, tmp_path, 0, asynchronous=True)
    checkpoint.import_modules(embedding, {"user": torch.ones(20, 4)})
    with pytest.raises(
        checkpoint.CheckpointError, match="does not know what changed since that step"
    ):
        checkpoint.save(embedding, tmp_path, 1, since=0)


@pytest.mark.parametrize("shards", [1, 3])
def test_one_table_becomes_one_file(tmp_path: Path, shards: int) -> None:
    values = random_values(TABLES)
    checkpoint.write_tables(tmp_path, 0, values, num_shards=shards)
    with checkpoint.open(tmp_path) as reader:
        checkpoint.export_table(reader, "user", tmp_path / "user.safetensors")
        checkpoint.export_table(reader, "user", tmp_path / "user.npy", field="accumulators")
        with pytest.raises(KeyError, match=re.escape("holds no film.weight")):
            checkpoint.export_table(reader, "film", tmp_path / "film.npy")
        with pytest.raises(ValueError, match=r"must end in \.safetensors or \.npy"):
            checkpoint.export_table(reader, "user", tmp_path / "user.bin")
    found = {
        "weight": load_file(tmp_path / "user.safetensors")["user.weight"],
        "accumulators": torch.from_numpy(np.load(tmp_path / "user.npy")),
    }
    assert_same({"user": found}, {"user": values["user"]})
    assert {path.name for path in tmp_path.glob("[!.]*")} == {
        "step-0",
        "user.safetensors",
        "user.npy",
    }

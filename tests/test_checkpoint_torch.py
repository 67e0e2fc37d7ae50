"""From and to plain torch: modules, TorchRec keys, single files."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from checkpoint_fakes import FakeEmbedding, ThreadGroups, assert_same, random_values, table, whole
from safetensors.torch import load_file
from torch import nn

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import shard as shard_module

TABLES = [table("user", 20), table("item", 5, 2)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(shard_module, "BLOCK_BYTES", 50)


@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_modules_become_weights_and_slots_stay(strategy):
    modules = {"user": nn.Embedding(20, 4), "item": nn.EmbeddingBag(5, 2).to(torch.bfloat16)}
    start = random_values(TABLES)

    def work(group):
        embedding = FakeEmbedding(TABLES, group, strategy, start)
        checkpoint.import_modules(embedding, modules)
        return embedding.shard

    found = whole(ThreadGroups(3).run(work))
    assert torch.equal(found["user"]["weight"], modules["user"].weight)
    assert torch.equal(found["item"]["weight"], modules["item"].weight.float())
    assert_same(found, {name: {"accumulators": start[name]["accumulators"]} for name in start})


def test_torchrec_keys_become_weights():
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


def test_what_does_not_fit_is_named_and_nothing_changes():
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


def test_an_import_ends_what_deltas_could_stand_on(tmp_path):
    embedding = FakeEmbedding(TABLES)
    checkpoint.save(embedding, tmp_path, 0, asynchronous=True)
    checkpoint.import_modules(embedding, {"user": torch.ones(20, 4)})
    with pytest.raises(
        checkpoint.CheckpointError, match="does not know what changed since that step"
    ):
        checkpoint.save(embedding, tmp_path, 1, since=0)


@pytest.mark.parametrize("shards", [1, 3])
def test_one_table_becomes_one_file(tmp_path, shards):
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

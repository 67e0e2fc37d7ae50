"""A table with a DynamicVocabulary on the CPU: it looks up what inference on an XLA device does."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import helpers
from models.maps import ALL_IDS, NUM_IDS

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

B = 4
SPLITS = torch.tensor([0, 2, 2, 5, 6])
PADDING = int(ALL_IDS[3])
numbers = st.lists(st.integers(0, NUM_IDS - 1), min_size=16, max_size=16)


def features(rows: int = 23) -> dict[str, tte.FeatureConfig]:
    """Features of all kinds on a table with a DynamicVocabulary, and one on a plain table."""
    vocabulary = tte.DynamicVocabulary(admission=2, oov_rows=3)
    live = tte.TableConfig(
        rows, 4, name="live", combiner="mean", vocabulary=vocabulary, padding_idx=PADDING
    )
    return {
        "dense": tte.FeatureConfig(live),
        "bags": tte.FeatureConfig(live, is_weighted=True),
        "sequence": tte.FeatureConfig(live, max_sequence_length=2),
        "plain": tte.FeatureConfig(tte.TableConfig(9, 4, name="plain")),
    }


def inputs_of(numbers: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ids, known or not, and weights of one batch."""
    ids = torch.from_numpy(ALL_IDS[numbers])
    weights = torch.arange(1.0, 7.0)
    given = {
        "dense": ids[:4],
        "bags": tte.Ragged(ids[4:10], SPLITS),
        "sequence": tte.Ragged(ids[10:], SPLITS),
        "plain": torch.arange(4),
    }
    return given, {**dict.fromkeys(given), "bags": tte.Ragged(weights, SPLITS)}


def trained() -> tte.TPUEmbedding:
    """An embedding on an XLA device after steps that have admitted and evicted ids."""
    embedding = tte.TPUEmbedding(features(), B, tte.SGD(0.5), seed=0)
    rng = np.random.default_rng(0)
    for _ in range(8):
        step(embedding, rng.integers(0, NUM_IDS, 16).tolist())
    embedding.eval()
    return embedding


def step(embedding: tte.TPUEmbedding, numbers: list[int]) -> None:
    """One training step, on an XLA device."""
    sum_of_squares(embedding, numbers).backward()
    embedding.apply_gradients()
    tte.runtime.sync()


def sum_of_squares(embedding: tte.TPUEmbedding, numbers: list[int]) -> torch.Tensor:
    rows = embedding(*inputs_of(numbers))
    return torch.stack([each.square().sum() for each in rows.values()]).sum()


def on_cpu() -> tte.TPUEmbedding:
    return tte.TPUEmbedding(features(), B, tte.SGD(0.5), device="cpu", seed=1)


def assert_same_tables(one: tte.TPUEmbedding, other: tte.TPUEmbedding) -> None:
    found, wanted = helpers.tensors(one), helpers.tensors(other)
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        assert torch.equal(value, wanted[key]), key


@pytest.fixture(scope="module")
def xla() -> tte.TPUEmbedding:
    return trained()


@settings(max_examples=25, deadline=None)
@given(numbers=numbers)
def test_a_lookup_on_the_cpu_is_one_of_inference_on_an_xla_device(
    xla: tte.TPUEmbedding, numbers: list[int]
) -> None:
    cpu = on_cpu()
    cpu.load_state_dict(xla.state_dict())
    given, weights = inputs_of(numbers)
    wanted, found = xla(given, weights), cpu(given, weights)
    assert found.keys() == wanted.keys()
    for name, each in found.items():
        torch.testing.assert_close(each.detach(), xla.to_host(wanted[name]), rtol=1e-6, atol=1e-6)
    part = cpu({"dense": given["dense"]})["dense"]
    assert torch.equal(part, found["dense"])
    assert_same_tables(cpu, xla)  # nothing was admitted, though cpu.training is True


def test_without_a_map_all_ids_use_the_shared_rows_that_an_xla_device_uses() -> None:
    one = tte.TPUEmbedding(features(), B, tte.SGD(0.5), seed=1).eval()
    cpu = on_cpu()
    given, weights = inputs_of([*range(16)])
    found = cpu(given, weights)["dense"]
    assert torch.equal(found.detach(), one.to_host(one(given, weights)["dense"]))
    shared = cpu.table_weight("live", 0, 3)
    assert (found[:, None] == shared).all(-1).any(-1)[:3].all()
    assert not found[3].any()  # the id of padding_idx


def test_a_step_of_sgd_on_the_cpu_is_one_on_an_xla_device(tmp_path: Path) -> None:
    one = trained().train()
    checkpoint.save(one, tmp_path, 1)
    cpu = on_cpu()
    checkpoint.load(cpu, tmp_path)
    assert_same_tables(cpu, one)
    known = one.state_dict()["live.ids"][1:, 0]
    numbers = [n for n, id_ in enumerate(ALL_IDS.tolist()) if id_ in known][:16]
    numbers = (numbers * 16)[:16]
    step(one, numbers)
    optimizer = torch.optim.SGD(cpu.parameters(), lr=0.5)
    sum_of_squares(cpu, numbers).backward()
    optimizer.step()
    for table in ("live", "plain"):
        torch.testing.assert_close(cpu.table_weight(table), one.table_weight(table))
    assert torch.equal(cpu.read_rows("live", known), cpu.state_dict()["live.weight"][[
        int(row) for row in cpu.state_dict()["live.ids"][1:, 1]
    ]])  # fmt: skip


def test_a_checkpoint_of_the_cpu_goes_on_on_an_xla_device(tmp_path: Path) -> None:
    one, other = trained(), tte.TPUEmbedding(features(), B, tte.SGD(0.5), seed=0)
    checkpoint.save(one, tmp_path / "one", 1)
    cpu = on_cpu()
    checkpoint.load(cpu, tmp_path / "one")
    checkpoint.save(cpu, tmp_path / "other", 1)
    checkpoint.load(other, tmp_path / "other")
    one.train()
    for number in range(4):
        for each in (one, other):
            step(each, [*range(number, number + 16)])
        assert_same_tables(one, other)


def test_a_table_of_another_size_on_the_cpu_takes_the_ids_used_most(tmp_path: Path) -> None:
    one = trained()
    checkpoint.save(one, tmp_path, 1)
    small = tte.TPUEmbeddingForServing(features(9), tte.SGD(0.5))
    checkpoint.load(small, tmp_path, resize="allow")
    kept = small.state_dict()["live.ids"][1:, 0]
    assert len(kept) == 6
    assert torch.equal(small.read_rows("live", kept), one.read_rows("live", kept))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_has_the_map(xla: tte.TPUEmbedding, copied: Any) -> None:
    cpu = on_cpu()
    cpu.load_state_dict(xla.state_dict())
    other = copied(cpu)
    given = inputs_of([*range(20, 36)])
    wanted = cpu(*given)
    cpu.load_state_dict(on_cpu().state_dict())  # the copy has a map of its own
    for name, each in other(*given).items():
        assert torch.equal(each, wanted[name])


def test_what_is_exported_from_the_cpu_is_what_is_exported_from_an_xla_device(
    xla: tte.TPUEmbedding,
) -> None:
    cpu = on_cpu()
    cpu.load_state_dict(xla.state_dict())
    given = {"dense": torch.from_numpy(ALL_IDS)}
    one, other = (tte.export_serving(each)(given)["dense"] for each in (cpu, xla))
    assert torch.equal(one, other)


def test_a_lookup_in_tables_alone_names_what_holds_the_map() -> None:
    cpu = on_cpu()
    given, config = {"dense": torch.from_numpy(ALL_IDS[:4])}, features()
    with pytest.raises(ValueError, match=r"'live'.*TPUEmbedding\(device='cpu'\).*export_serving"):
        tte.serving_embedding_lookup(given, None, cpu.embedding_tables, config)
    assert torch.equal(cpu(given)["dense"], tte.export_serving(cpu)(given)["dense"])

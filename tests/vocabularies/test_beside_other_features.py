"""Tables with a vocabulary beside the rest of the package: each way works, or says what to do instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import helpers
from programs import kernels_on_cpu

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.inputs.at_once.bags import OneIdBags
from torch_tpu_embedding.inputs.parse import parse_features
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.serving.int8 import Int8Embedding

BATCH = 4
VOCABULARIES = {
    "hashed": tte.HashedVocabulary(seed=2),
    "by two": tte.HashedVocabulary(2),
    "dynamic": tte.DynamicVocabulary(oov_rows=2),
}
each_vocabulary = pytest.mark.parametrize("name", VOCABULARIES)


def features_of(vocabulary: Any, dim: int = 4) -> list[tte.FeatureConfig]:
    """Two features on a table with a vocabulary, one on a plain one."""
    table = tte.TableConfig(13, dim, name="t", combiner="sum", vocabulary=vocabulary)
    plain = tte.TableConfig(9, dim, name="plain", combiner="sum")
    return [tte.FeatureConfig(table), tte.FeatureConfig(table), tte.FeatureConfig(plain)]


def make(name: str, dim: int = 4, **options: Any) -> tte.TPUEmbedding:
    features = features_of(VOCABULARIES[name], dim)
    return tte.TPUEmbedding(features, BATCH, tte.Adagrad(0.1), seed=0, **options)


def matrix(step: int) -> torch.Tensor:
    """One id a sample of each feature, `[B, 3]`: any int64 in two of them."""
    rng = np.random.default_rng(step)
    ids = rng.choice([-(2**63), -1, 8, 12, 13, 2**40, 2**63 - 1], (BATCH, 3))
    ids[:, 2] = rng.integers(0, 9, BATCH)
    return torch.from_numpy(ids)


@each_vocabulary
def test_features_of_one_id_a_sample_are_read_one_by_one_if_a_table_has_a_vocabulary(
    name: str,
) -> None:
    ids = matrix(0)
    for structure in ([*range(3)], {"a": 0, "b": 1, "c": 2}):
        configs = features_of(VOCABULARIES[name])
        value: Any = [*ids.unbind(1)]
        if isinstance(structure, dict):
            configs, value = ({key: x[n] for key, n in structure.items()} for x in (configs, value))
        resolved = resolve(configs, None)
        assert not resolved.all_may_be_plain
        found = parse_features(resolved, value, None, BATCH, "raise", [None] * 3)
        assert not isinstance(found, OneIdBags)
    plain = resolve(features_of(None), None)
    assert isinstance(parse_features(plain, ids % 9, None, BATCH, "raise", [None] * 3), OneIdBags)


@each_vocabulary
def test_a_matrix_of_any_ids_trains_as_bags_of_one_do(name: str) -> None:
    one, other = make(name), make(name)
    for step in range(5):
        ids = matrix(step)
        bags = [
            tte.Ragged.from_lists(each[:, None].tolist(), torch.int64) for each in ids.unbind(1)
        ]
        for a, b in zip(
            helpers.train_step(one, [*ids.unbind(1)]), helpers.train_step(other, bags), strict=True
        ):
            assert torch.equal(a, b)
    found = helpers.tensors(other)
    for key, value in helpers.tensors(one).items():
        assert torch.equal(value, found[key]), key
    one.eval()
    other.eval()
    for a, b in zip(one(matrix(9)), other([*matrix(9).unbind(1)]), strict=True):
        assert torch.equal(one.to_host(a), other.to_host(b))


@each_vocabulary
def test_an_export_in_8_bits_takes_raw_ids_and_is_off_by_half_a_scale_for_each_row(
    name: str,
) -> None:
    embedding = make(name)
    for step in range(4):
        helpers.train_step(embedding, [*matrix(step).unbind(1)])
    exact, small = (tte.export_serving(embedding, quantize=q) for q in (None, "int8"))
    names = [feature.name for feature in embedding.resolved.features]
    dense = dict(zip(names, matrix(3).unbind(1), strict=True))
    bags = {n: (each, torch.tensor([0, 0, 1, 4])) for n, each in dense.items()}
    table = small.tables["t"]
    assert isinstance(table, Int8Embedding)
    half = float(table.scale.max()) * 0.51
    for value, lookups in ((dense, 1), (bags, 3)):
        found, wanted = small(value), exact(value)
        for n in names[:2]:
            rows = 2 if name == "by two" else 1
            torch.testing.assert_close(found[n], wanted[n], rtol=0, atol=half * rows * lookups)
            assert not torch.equal(found[n], wanted[n])


@pytest.mark.parametrize("dim", [4, 64, 128])
@each_vocabulary
def test_row_kernels_train_what_the_scatter_trains(
    name: str, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_on_cpu.use(monkeypatch)
    one, other = (make(name, dim, layout="TPU", row_kernels=kind) for kind in ("on", "off"))
    for step in range(6):
        for each in (one, other):
            helpers.train_step(each, [*matrix(step).unbind(1)])
    assert "row kernel" in one.describe()
    wanted = helpers.tensors(other)
    for key, value in helpers.tensors(one).items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["hashed", "by two"])
def test_steps_on_rows_by_hash_can_be_replayed(name: str) -> None:
    one, other = make(name), make(name)

    def step_of(embedding: tte.TPUEmbedding) -> Any:
        def step() -> torch.Tensor:
            loss = torch.cat([*embedding.dequeue()], 1).square().sum()
            loss.backward()
            embedding.apply_gradients()
            return loss.detach()

        return step

    replayed, plain = tte.replay(step_of(one), one, verify=2), step_of(other)
    for step in range(10):
        ids = [torch.full((BATCH,), step, dtype=torch.int64) + n for n in range(3)]
        ids[2] %= 9
        one.enqueue(ids)
        other.enqueue(ids)
        a, b = replayed(), plain()
        tte.runtime.sync()
        assert torch.equal(one.to_host(a), other.to_host(b))
    assert replayed.replayed > 2, replayed.reason


@each_vocabulary
def test_rows_cannot_be_written_or_searched_by_id_and_the_errors_say_what_can(name: str) -> None:
    embedding = make(name)
    helpers.train_step(embedding, [*matrix(0).unbind(1)])
    ids = matrix(0)[:, 0]
    with pytest.raises(ValueError, match=r"write_rows: table 't'.*with load_state_dict"):
        embedding.write_rows("t", ids, torch.zeros(BATCH, 4))
    state = embedding.state_dict()
    state["t.weight"] = torch.arange(13.0)[:, None].expand(13, 4).contiguous()
    embedding.load_state_dict(state)
    rows = embedding.read_rows("t", ids)
    assert rows.shape == (BATCH, 4)
    assert torch.equal(rows, rows.round())
    with pytest.raises(ValueError, match=r"top_k: table 't'.*read_rows gives the vectors of ids"):
        embedding.top_k("t", torch.ones(1, 4), 2)
    scores = embedding.read_rows("t", ids) @ torch.ones(4)
    assert scores.shape == (BATCH,)
    assert embedding.top_k("plain", torch.ones(1, 4), 2)[1].shape == (1, 2)


def test_tables_without_a_vocabulary_have_the_engine_that_knows_of_none() -> None:
    embedding = tte.TPUEmbedding(features_of(None), BATCH, tte.Adagrad(0.1), seed=0)
    assert type(embedding._tables.engine) is Engine

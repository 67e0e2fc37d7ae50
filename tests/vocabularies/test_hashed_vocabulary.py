"""HashedVocabulary: any id to rows by hash, in training, on the CPU, exported, saved and read."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import helpers
from models.laws import BATCH

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.reference import ReferenceEmbedding, Sample, rows_by_hash
from torch_tpu_embedding.vocabularies.row_hash import hashed_rows

PADDING = -7
LOW, HIGH = -(2**63), 2**63 - 1
ids = st.one_of(st.integers(LOW, HIGH), st.integers(-9, 9))


def config(hash_functions: int) -> list[tte.FeatureConfig]:
    """Tables of two combiners, one with padding, one without a vocabulary; a sequence."""
    by_hash = tte.HashedVocabulary(hash_functions, seed=3)
    a = tte.TableConfig(11, 4, combiner="mean", name="a", vocabulary=by_hash)
    b = tte.TableConfig(7, 3, combiner="sum", name="b", vocabulary=by_hash, padding_idx=PADDING)
    plain = tte.TableConfig(5, 4, combiner="sqrtn", name="plain")
    return [
        tte.FeatureConfig(a),
        tte.FeatureConfig(b),
        tte.FeatureConfig(plain),
        tte.FeatureConfig(a, max_sequence_length=3),
        tte.FeatureConfig(b, max_sequence_length=2),
    ]


@st.composite
def batches(draw: st.DrawFn) -> list[list[Sample]]:
    batch = []
    for feature in config(1):
        known = feature.table.vocabulary is None
        weights = st.just(1.0) if feature.max_sequence_length else st.sampled_from([0.5, 1.0, 2.0])
        each = st.tuples(st.integers(0, 4) if known else ids, weights)
        batch.append(draw(st.lists(st.lists(each, max_size=5), min_size=BATCH, max_size=BATCH)))
    return batch


EMBEDDINGS = {k: tte.TPUEmbedding(config(k), BATCH, tte.Adagrad(0.1), seed=1) for k in (1, 2, 3)}
STARTS = {k: helpers.tensors(each) for k, each in EMBEDDINGS.items()}


@given(st.lists(ids, max_size=20), st.integers(1, 3), st.integers(0, 5), st.integers(1, 2**40))
def test_rows_are_those_of_plain_integers(of: list[int], k: int, seed: int, num_rows: int) -> None:
    vocabulary = tte.HashedVocabulary(k, seed)
    found = hashed_rows(torch.tensor(of, dtype=torch.int64), vocabulary, num_rows)
    assert found.tolist() == [rows_by_hash(each, vocabulary, num_rows) for each in of]


@settings(max_examples=25, deadline=None)
@given(batches(), st.sampled_from([1, 2, 3]), st.sampled_from(helpers.KINDS))
def test_a_step_is_that_of_the_reference(batch: list[list[Sample]], k: int, kind: str) -> None:
    embedding, features = EMBEDDINGS[k], config(k)
    helpers.clone_into(embedding, STARTS[k])
    reference = ReferenceEmbedding(features, tte.Adagrad(0.1), STARTS[k])
    inputs, weights = helpers.as_inputs(batch, kind)
    weights = [None if f.max_sequence_length else w for f, w in zip(features, weights, strict=True)]
    found = helpers.train_step(embedding, inputs, weights)
    wanted = reference.look_up(batch)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)
    reference.apply_gradients(batch, [helpers.gradient_of(each).double() for each in found])
    for key, value in helpers.tensors(embedding).items():
        torch.testing.assert_close(value.double(), reference.state[key], atol=1e-5, rtol=1e-5)


def dense(k: int, **options: object) -> dict[str, tte.FeatureConfig]:
    table = tte.TableConfig(
        50,
        4,
        name="t",
        vocabulary=tte.HashedVocabulary(k),
        **options,  # type: ignore[arg-type]
    )
    return {
        "one": tte.FeatureConfig(table),
        "bag": tte.FeatureConfig(table),
        "row": tte.FeatureConfig(table, max_sequence_length=2),
    }


BATCH_OF_RAW = {
    "one": tte.hash_ids(["a", "b", "a", ""]),
    "bag": tte.Ragged.from_lists([[LOW, HIGH], [], [-1], [0, 5, 5]]),
    "row": tte.Ragged.from_lists([[3, -3, 8], [], [-1], [4]]),
}


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("padding", [None, 5])
def test_device_cpu_serving_and_export_give_the_same(
    k: int, padding: int | None, tmp_path: Path
) -> None:
    features = dense(k, padding_idx=padding)
    embedding = tte.TPUEmbedding(features, 4, tte.SGD(0.1), seed=0)
    wanted = {
        name: embedding.to_host(each.detach()) for name, each in embedding(BATCH_OF_RAW).items()
    }
    embedding.discard()
    served = tte.TPUEmbeddingForServing(features)
    served.load_state_dict(embedding.state_dict(), strict=False)
    exported = tte.export_serving(embedding, tmp_path / "t.pt2", BATCH_OF_RAW)
    program = torch.export.load(tmp_path / "t.pt2").module()
    as_taken = {
        name: (each.values, each.row_splits) if isinstance(each, tte.Ragged) else each
        for name, each in BATCH_OF_RAW.items()
    }
    for found in (served(BATCH_OF_RAW), exported(BATCH_OF_RAW), program(as_taken)):
        for name, each in wanted.items():
            torch.testing.assert_close(found[name].detach(), each)
    vectors = embedding.read_rows("t", BATCH_OF_RAW["one"])
    torch.testing.assert_close(vectors, wanted["one"])
    torch.testing.assert_close(served.read_rows("t", BATCH_OF_RAW["one"]), wanted["one"])


def test_the_loader_gives_what_enqueue_gives_and_nothing_is_compiled_again() -> None:
    embedding = tte.TPUEmbedding(dense(2), 4, tte.SGD(0.1), seed=0)

    def batch(number: int) -> dict[str, object]:
        return {
            "one": tte.hash_ids([f"{number}-{i}" for i in range(4)]),
            "bag": tte.Ragged.from_lists([[number, -i] for i in range(4)]),
            "row": tte.Ragged.from_lists([[number], [number, 2], [-number], [1]]),
        }

    count = 0
    for number, loaded in enumerate(tte.EmbeddingLoader(map(batch, range(8)), embedding)):
        del loaded
        rows = embedding.dequeue()
        sum(each.sum() for each in rows.values()).backward()
        embedding.apply_gradients()
        del rows
        tte.runtime.sync()
        if number == 3:
            count = tte.runtime.compile_count()
    assert tte.runtime.compile_count() == count


def test_a_checkpoint_records_the_hash_and_another_one_is_refused(tmp_path: Path) -> None:
    def make(rows: int = 50, **options: object) -> tte.TPUEmbedding:
        table = tte.TableConfig(rows, 4, name="t", **options)  # type: ignore[arg-type]
        return tte.TPUEmbedding({"f": tte.FeatureConfig(table)}, 4, tte.SGD(0.1), device="cpu")

    saved = make(vocabulary=tte.HashedVocabulary(2))
    checkpoint.save(saved, tmp_path, 1)
    again = make(vocabulary=tte.HashedVocabulary(2))
    checkpoint.load(again, tmp_path)
    assert torch.equal(again.state_dict()["t.weight"], saved.state_dict()["t.weight"])
    for other in (
        make(), make(vocabulary=tte.HashedVocabulary()), make(vocabulary=tte.HashedVocabulary(2, 1)),
    ):  # fmt: skip
        before = other.state_dict()["t.weight"].clone()
        with pytest.raises(ValueError, match=r"its rows were found by HashedVocabulary.*but by"):
            checkpoint.load(other, tmp_path)
        with pytest.raises(RuntimeError, match=r"its rows were found by HashedVocabulary.*but by"):
            other.load_state_dict(saved.state_dict())
        assert torch.equal(other.state_dict()["t.weight"], before)
    checkpoint.save(make(), tmp_path / "plain", 1)
    with pytest.raises(ValueError, match=r"found by their numbers in the checkpoint"):
        checkpoint.load(saved, tmp_path / "plain")
    for resize in ("error", "allow"):
        with pytest.raises(
            ValueError, match=r"the hash finds other rows among 60 than among the 50"
        ):
            checkpoint.load(
                make(60, vocabulary=tte.HashedVocabulary(2)),
                tmp_path,
                resize=resize,  # type: ignore[arg-type]
            )


def test_a_description_of_the_config_keeps_the_vocabulary() -> None:
    features = dense(3)
    described = json.loads(json.dumps(tte.config_to_dict(features)))
    found = tte.config_from_dict(described)
    assert found["one"].table.vocabulary == tte.HashedVocabulary(3)
    assert found["one"].table is found["bag"].table
    plain = {"f": tte.FeatureConfig(tte.TableConfig(5, 2))}
    assert "vocabulary" not in tte.config_to_dict(plain)["tables"][0]
    embedding = tte.TPUEmbedding(features, 4, None, device="cpu")
    assert "50 rows by 3 hashes" in embedding.describe()


def test_what_cannot_be_is_said_at_construction() -> None:
    by_hash = tte.HashedVocabulary()
    with pytest.raises(ValueError, match=r"hash_functions must be an int of at least 1, got 0"):
        tte.HashedVocabulary(0)
    with pytest.raises(ValueError, match=r"seed must be an int of at least 0, got -1"):
        tte.HashedVocabulary(seed=-1)
    with pytest.raises(
        ValueError,
        match=r"vocabulary must be None, a HashedVocabulary or a DynamicVocabulary, got 7",
    ):
        tte.TableConfig(8, 4, vocabulary=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"RowIdInitializer fills rows by their numbers"):
        tte.TableConfig(8, 4, vocabulary=by_hash, initializer=tte.RowIdInitializer())
    with pytest.raises(ValueError, match=r"padding_idx must be an int64 id"):
        tte.TableConfig(8, 4, vocabulary=by_hash, padding_idx=2**63)
    features = {"f": tte.FeatureConfig(tte.TableConfig(8, 4, vocabulary=by_hash))}
    with pytest.raises(ValueError, match=r"id_bounds='drop'.*all tables have a vocabulary"):
        tte.TPUEmbedding(features, 4, None, id_bounds="drop", device="cpu")
    mixed = {**features, "g": tte.FeatureConfig(tte.TableConfig(8, 4))}
    tte.TPUEmbedding(mixed, 4, None, id_bounds="drop", device="cpu")


def test_calls_for_rows_of_single_ids_are_refused_with_what_to_do() -> None:
    embedding = tte.TPUEmbedding(dense(2, padding_idx=5), 4, tte.Adagrad(0.1), device="cpu")
    with pytest.raises(ValueError, match=r"write_rows.*so a row is no id's own; set all rows with"):
        embedding.write_rows("t", [1], torch.zeros(1, 4))
    embedding.load_state_dict(copy.copy(embedding.state_dict()))
    with pytest.raises(
        ValueError, match=r"top_k.*read_rows gives the vectors of ids, to be scored"
    ):
        embedding.top_k("t", torch.zeros(1, 4), 2)
    with pytest.raises(ValueError, match=re.escape("take all rows by table_weight with slot=…")):
        embedding.read_rows("t", [1], slot="accumulators")
    assert embedding.table_weight("t", slot="accumulators").shape == (50, 4)
    with pytest.raises(ValueError, match=r"id 5 at position 1 is padding_idx, which has no row"):
        embedding.read_rows("t", [1, 5])

"""Tables in bfloat16 as a user sees them: saved, loaded, read, written, searched, served, described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models.bfloat16 import assert_same, tensors

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.config.serialization import config_from_dict, config_to_dict
from torch_tpu_embedding.runtime import DeviceKind

V, D, B = 30, 5, 4
HALVES, FLOATS = torch.bfloat16, torch.float32


def make(dtype: torch.dtype = HALVES, seed: int = 0, **options: Any) -> tte.TPUEmbedding:
    table = tte.TableConfig(V, D, name="t", dtype=dtype, combiner="sum")
    config = {"one": tte.FeatureConfig(table), "bag": tte.FeatureConfig(table)}
    return tte.TPUEmbedding(config, B, tte.Adagrad(0.1), seed=seed, **options)


def features() -> dict[str, Any]:
    return {
        "one": torch.tensor([3, 7, 3, 29]),
        "bag": tte.Ragged.from_lists([[1, 2], [], [3, 3, 0], [V - 1]]),
    }


def step(embedding: tte.TPUEmbedding) -> None:
    embedding.enqueue(features())
    embedding.apply_gradients({k: torch.full_like(v, 0.3) for k, v in embedding.dequeue().items()})


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_state_is_bfloat16_with_slots_in_float32_and_loads_again(device: str | None) -> None:
    trained = make()
    step(trained)
    state = trained.state_dict()
    assert state["t.weight"].dtype == HALVES
    assert state["t.accumulators"].dtype == FLOATS
    other = make(seed=1, device=device)
    other.load_state_dict(state)
    assert_same(tensors(other), tensors(trained))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_float32_numbers_load_if_bfloat16_has_them_and_are_else_refused_with_a_remedy(
    device: str | None,
) -> None:
    embedding = make(device=device)
    state = embedding.state_dict()
    before = {key: value.clone() for key, value in tensors(embedding).items()}
    exact = {**state, "t.weight": torch.full((V, D), 0.5)}
    inexact = {**state, "t.weight": torch.full((V, D), 0.1)}
    with pytest.raises(RuntimeError, match=r"t.weight: 0.1\d* at \[0, 0\] is no .*\.bfloat16\(\)"):
        embedding.load_state_dict(inexact)
    assert_same(tensors(embedding), before)
    embedding.load_state_dict({**inexact, "t.weight": inexact["t.weight"].bfloat16()})
    assert (embedding.state_dict()["t.weight"] == torch.tensor(0.1).bfloat16()).all()
    embedding.load_state_dict(exact)
    assert (embedding.state_dict()["t.weight"] == 0.5).all()


def test_a_table_in_float32_refuses_bfloat16_until_it_is_converted() -> None:
    packed, plain = make(), make(FLOATS)
    with pytest.raises(
        RuntimeError, match=r"expected torch\.float32, got torch\.bfloat16; convert it"
    ):
        plain.load_state_dict(packed.state_dict())
    state = packed.state_dict()
    plain.load_state_dict({**state, "t.weight": state["t.weight"].float()})
    assert torch.equal(plain.state_dict()["t.weight"], state["t.weight"].float())


def test_rows_on_the_cpu_are_written_too() -> None:
    table = tte.TableConfig(9, D, name="t", dtype=torch.bfloat16)
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 2, tte.Adagrad(0.1), device="cpu")
    rows = torch.arange(2.0 * D).view(2, D) / 4
    for values in (rows, rows.bfloat16()):
        embedding.write_rows("t", [7, 2], values)
        assert torch.equal(embedding.read_rows("t", [7, 2]), rows)
        embedding.write_rows("t", [7, 2], torch.zeros(2, D))


@pytest.mark.parametrize("layout", [None, "TPU"])
def test_rows_are_read_written_and_searched(layout: DeviceKind | None) -> None:
    embedding = make(layout=layout)
    rows = torch.arange(2.0 * D).view(2, D) / 4
    for values in (rows, rows.bfloat16()):
        embedding.write_rows("t", [7, 2], values, reset_slots=True)
        found = embedding.read_rows("t", [2, 7])
        assert found.dtype == FLOATS
        assert torch.equal(found, rows.flip(0))
    with pytest.raises(
        ValueError, match=r"write_rows: table 't': values: 0.1\d* at \[0, 0\] is no"
    ):
        embedding.write_rows("t", [7], torch.full((1, D), 0.1))
    assert torch.equal(embedding.read_rows("t", [7])[0], rows[0])
    embedding.write_rows("t", [7], torch.full((1, D), 0.1).bfloat16())
    weight = embedding.state_dict()["t.weight"].float()
    assert torch.equal(embedding.table_weight("t"), weight)
    queries = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    scores, ids = embedding.top_k("t", queries, 4)
    wanted = (queries @ weight.T).topk(4)
    assert torch.equal(ids, wanted.indices)
    torch.testing.assert_close(scores, wanted.values)
    slots = embedding.read_rows("t", [2], slot="accumulators")
    assert torch.equal(slots, torch.full((1, D), 0.1))


def test_lookups_on_the_cpu_and_served_ones_are_those_of_the_device() -> None:
    trained = make()
    step(trained)
    trained.enqueue(features(), training=False)
    wanted = {key: value.cpu() for key, value in trained.dequeue().items()}
    on_cpu = make(seed=1, device="cpu")
    on_cpu.load_state_dict(trained.state_dict())
    assert on_cpu.embedding_tables.popitem()[1].dtype == HALVES
    served = tte.export_serving(trained)
    assert served.tables["t"].weight.dtype == FLOATS
    given = {**features(), "bag": (features()["bag"].values, features()["bag"].row_splits)}
    for found in (on_cpu(features()), served(given)):
        for key, value in wanted.items():
            assert found[key].dtype == FLOATS
            torch.testing.assert_close(found[key], value)


def test_metrics_measure_the_rows() -> None:
    embedding = make()
    embedding.enable_metrics(every=1)
    for _ in range(3):
        step(embedding)
        tte.runtime.sync()
    found = embedding.metrics()
    rows = embedding.read_rows("t", sorted({3, 7, 29, 1, 2, 0}))
    wanted = rows.square().sum(1).mean().sqrt().item()
    assert found["tables"]["t"]["row_norm"] == pytest.approx(wanted, rel=0.2)


def test_the_description_says_dtype_rounding_and_bytes() -> None:
    embedding = make(layout="TPU", row_kernels="on")
    embedding.build()
    text = embedding.describe()
    assert "weights in bfloat16: t (rounded by chance)" in text
    assert "int32, two weights a lane" in text
    assert "row kernel" not in text, "kernels write float32 rows alone"
    assert "bfloat16" not in make(FLOATS).describe()


def test_a_configuration_keeps_its_dtype_and_rounding_on_the_way_through_json() -> None:
    for rounding in (None, "nearest"):
        table = tte.TableConfig(V, D, name="t", dtype=HALVES, rounding=rounding)
        described = config_to_dict(tte.FeatureConfig(table))
        again = config_from_dict(described).table
        assert (again.dtype, again.rounding) == (HALVES, rounding)


def test_accumulated_and_frozen_rows() -> None:
    embedding = make()
    before = tensors(embedding)
    embedding.freeze("t")
    step(embedding)
    assert_same(tensors(embedding), before)
    embedding.unfreeze("t")
    for _ in range(2):
        embedding.enqueue(features())
        activations = embedding.dequeue()
        embedding.accumulate_gradients({k: torch.full_like(v, 0.3) for k, v in activations.items()})
    embedding.apply_gradients()
    found = tensors(embedding)
    assert not torch.equal(found["t.weight"][3], before["t.weight"][3])
    untouched = [row for row in range(V) if row not in (0, 1, 2, 3, 7, 29)]
    assert torch.equal(found["t.weight"][untouched], before["t.weight"][untouched])


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_checkpoint_holds_bfloat16_and_gives_the_same_bits_also_in_deltas(tmp_path: Path) -> None:
    trained = make()
    step(trained)
    checkpoint.save(trained, tmp_path, 1)
    step(trained)
    checkpoint.save(trained, tmp_path, 2, since=1)
    for number in (1, 2):
        with checkpoint.open(tmp_path, number) as reader:
            entry = reader.tables["t"]
            assert entry.dtype == "bfloat16"
            size = sum(each.bytes for name, each in reader.index.files.items() if "weight" in name)
        if number == 1:
            assert size < 2 * V * D + 300, "two bytes a weight, and a header"
    other = make(seed=1)
    checkpoint.load(other, tmp_path)
    assert_same(tensors(other), tensors(trained))
    step(other)
    checkpoint.save(other, tmp_path, 3, since=2)
    again = make(seed=2)
    checkpoint.load(again, tmp_path)
    assert_same(tensors(again), tensors(other))


@pytest.mark.parametrize(("saved", "loaded"), [(HALVES, FLOATS), (FLOATS, HALVES)])
def test_a_checkpoint_of_another_dtype_is_converted_if_that_is_asked_for(
    tmp_path: Path, saved: torch.dtype, loaded: torch.dtype
) -> None:
    source, target = make(saved), make(loaded, seed=1)
    step(source)
    before = tensors(target)
    checkpoint.save(source, tmp_path, 1)
    names = {HALVES: "bfloat16", FLOATS: "float32"}
    message = (
        f"table 't': {names[saved]} in the checkpoint, {names[loaded]} in the embedding; pass "
        "dtype='convert'"
    )
    with pytest.raises(ValueError, match=message):
        checkpoint.load(target, tmp_path)
    assert_same(tensors(target), before)
    checkpoint.load(target, tmp_path, dtype="convert")
    found, wanted = tensors(target), tensors(source)
    assert torch.equal(found["t.weight"], wanted["t.weight"].to(loaded))
    assert torch.equal(found["t.accumulators"], wanted["t.accumulators"])
    step(target)
    checkpoint.save(target, tmp_path / "other", 2)
    with pytest.raises(ValueError, match="dtype must be one of"):
        checkpoint.load(target, tmp_path, dtype="float32")  # type: ignore[arg-type]


def test_imported_weights_must_be_numbers_of_bfloat16(tmp_path: Path) -> None:
    embedding = make()
    weight = torch.full((V, D), 0.1)
    with pytest.raises(ValueError, match=r"table 't', rows 0 … \d+: 0.1\d* at .*\.bfloat16\(\)"):
        checkpoint.import_modules(embedding, {"t": weight})
    checkpoint.import_modules(embedding, {"t": weight.bfloat16()})
    assert (embedding.state_dict()["t.weight"] == weight.bfloat16()).all()

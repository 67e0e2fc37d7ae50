"""DynamicVocabulary: rows that ids get and lose, trained as a reference with a map trains them."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from models import helpers
from models.laws import OPTIMIZERS

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.config.vocabulary import DynamicVocabulary
from torch_tpu_embedding.reference import ReferenceEmbedding
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.vocabularies.id_maps.id_map import IdMap, MapRules
from torch_tpu_embedding.vocabularies.start_values import start_values_by_id

V, B = 12, 4
VOCABULARY = DynamicVocabulary(eviction="lru", admission=2, oov_rows=2, max_age=6)
RULES = MapRules("lru", 2, 2, 6)
ALL_IDS = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 40, dtype=np.int64)


def config(vocabulary: DynamicVocabulary | None, dim: int) -> list[tte.FeatureConfig]:
    """Two features on a table that ids come to and leave, one on a plain table of the same stack."""
    live = tte.TableConfig(V, dim, name="live", combiner="sum", vocabulary=vocabulary)
    plain = tte.TableConfig(9, dim, name="plain", combiner="sum")
    return [tte.FeatureConfig(live), tte.FeatureConfig(live), tte.FeatureConfig(plain)]


def batch_of(step: int) -> list[list[list[int]]]:
    """Raw ids that drift: [feature][sample][id]."""
    rng = np.random.default_rng(step)
    drift = ALL_IDS[(rng.zipf(1.6, (2, B, 3)) + step // 2) % 40]
    plain = rng.integers(0, 9, (1, B, 2))
    return [*drift.tolist(), *plain.tolist()]


def tables_of(embedding: tte.TPUEmbedding) -> dict[str, torch.Tensor]:
    """Tables and slots without the map."""
    return {k: v for k, v in helpers.tensors(embedding).items() if not k.endswith(".ids")}


def inputs_of(batch: list[list[list[int]]]) -> list[tte.Ragged]:
    return [tte.Ragged.from_lists(rows, dtype=torch.int64) for rows in batch]


@pytest.mark.parametrize("layout", ["CPU", "TPU"])
@pytest.mark.parametrize(
    ("name", "dim"), [("adagrad", 4), ("adam", 64), ("rowwise", 6), ("sgd", 1)]
)
def test_a_run_is_that_of_a_map_and_a_reference(name: str, dim: int, layout: DeviceKind) -> None:
    optimizer = OPTIMIZERS[name]
    embedding = tte.TPUEmbedding(config(VOCABULARY, dim), B, optimizer, seed=4, layout=layout)
    embedding.build()
    state = tables_of(embedding)
    reference = ReferenceEmbedding(config(None, dim), optimizer, state)
    map_, evicted, num_new = IdMap(V, RULES), 0, 0
    table = embedding.resolved.tables[0]
    for step in range(14):
        batch = batch_of(step)
        raw = np.array([i for rows in batch[:2] for row in rows for i in row], np.int64)
        mapped = map_.update(raw, map_.clock + 1)
        evicted, num_new = evicted + mapped.evicted + mapped.expired, num_new + len(mapped.new_rows)
        starts = start_values_by_id(table, torch.from_numpy(mapped.new_ids), "4/live")
        for row, start in zip(mapped.new_rows.tolist(), starts, strict=True):
            reference.state["live.weight"][row] = start.double()
            for slot, value in optimizer.slot_initial_values().items():
                reference.state[f"live.{slot}"][row] = value
        row_of = dict(zip(raw.tolist(), mapped.rows.tolist(), strict=True))
        as_rows = [[[(row_of[i], 1.0) for i in row] for row in rows] for rows in batch[:2]]
        as_rows.append([[(i, 1.0) for i in row] for row in batch[2]])
        before = tables_of(embedding)
        found = helpers.train_step(embedding, inputs_of(batch))
        for one, other in zip(found, reference.look_up(as_rows), strict=True):
            torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)
        reference.apply_gradients(as_rows, [helpers.gradient_of(each).double() for each in found])
        after = tables_of(embedding)
        used = {*mapped.rows.tolist()}
        for key, value in after.items():
            torch.testing.assert_close(value.double(), reference.state[key], atol=3e-5, rtol=3e-5)
            if key.startswith("live"):
                others = [row for row in range(V) if row not in used]
                assert torch.equal(value[others], before[key][others])
    assert evicted > 3
    assert num_new > 12


def make() -> tte.TPUEmbedding:
    table = tte.TableConfig(
        10, 4, name="t", vocabulary=DynamicVocabulary(admission=1, oov_rows=2), combiner="sum"
    )
    return tte.TPUEmbedding({"f": tte.FeatureConfig(table)}, 2, tte.Adagrad(0.1), seed=0)


def test_inference_changes_nothing_and_unknown_ids_use_shared_rows() -> None:
    embedding = make()
    embedding.build()
    before = helpers.tensors(embedding)["t.weight"]
    embedding.eval()
    found = embedding.to_host(embedding({"f": torch.tensor([5, -6, 7])})["f"])
    for row in found:
        assert any(torch.equal(row, shared) for shared in before[:2])
    assert torch.equal(helpers.tensors(embedding)["t.weight"], before)
    maps = embedding._tables.vocabularies
    assert maps is not None
    assert (maps.maps[0][0].num_ids, maps.maps[0][0].clock) == (0, 0)


def test_rows_of_a_batch_that_was_dropped_start_with_the_next_one() -> None:
    embedding, wanted = make(), make()
    embedding.enqueue({"f": torch.tensor([5, 6])})
    embedding.discard()
    gc.collect()
    embedding.eval()
    shared = embedding.to_host(embedding({"f": torch.tensor([5, 6])})["f"])
    weight = helpers.tensors(embedding)["t.weight"]
    assert all(any(torch.equal(row, each) for each in weight[:2]) for row in shared)
    embedding.train()
    for each in (embedding, wanted):
        rows = each({"f": torch.tensor([5, 7])})
        if each is embedding:
            first = each.to_host(rows["f"].detach())
        else:
            assert torch.equal(each.to_host(rows["f"].detach()), first)
        each.discard()
    embedding.eval()
    found = embedding.to_host(embedding({"f": torch.tensor([6])})["f"])
    start = start_values_by_id(embedding.resolved.tables[0], torch.tensor([6]), "0/t")
    assert torch.equal(found, start)


def test_rows_of_batches_that_wait_are_not_taken() -> None:
    embedding = make()  # 8 rows of their own
    batches = [torch.tensor([2 * n, 2 * n + 1]) for n in range(6)]
    embedding.enqueue({"f": batches[0]}, name="a")
    embedding.enqueue({"f": batches[1]}, name="a")
    for n in (2, 3, 4):  # the last of them finds room with those that wait in the way
        embedding.enqueue({"f": batches[n]}, name=str(n))
    maps = embedding._tables.vocabularies
    assert maps is not None
    known = maps.maps[0][0].index.find(torch.cat(batches).numpy())
    assert (known[:8] >= 0).all()
    assert (known[8:] < 0).all()


def test_nothing_is_compiled_after_warm_up() -> None:
    vocabulary = DynamicVocabulary(admission=2, oov_rows=8)
    table = tte.TableConfig(300, 4, name="t", vocabulary=vocabulary, combiner="sum")
    embedding = tte.TPUEmbedding({"f": tte.FeatureConfig(table)}, 128, tte.Adagrad(0.1), seed=0)

    def step(number: int) -> None:
        """A tenth of the ids is new in each batch."""
        ids = np.random.default_rng(number).zipf(1.3, 128) % 60
        ids[:12] = 1000 + 6 * number + np.arange(12) // 2
        embedding({"f": torch.from_numpy(ids)})["f"].square().sum().backward()
        embedding.apply_gradients()

    for number in range(200):
        step(number)
        tte.runtime.sync()
        if number == 50:
            count = tte.runtime.compile_count()
    assert tte.runtime.compile_count() == count
    maps = embedding._tables.vocabularies
    assert maps is not None
    assert maps.report(0)["evictions"] > 500


def run(embedding: tte.TPUEmbedding, steps: range) -> list[torch.Tensor]:
    """Activations of training steps on ids that drift."""
    return [
        torch.cat(helpers.train_step(embedding, inputs_of(batch_of(step))), 1) for step in steps
    ]


def live(
    rows: int = V, vocabulary: DynamicVocabulary = VOCABULARY, **options: object
) -> tte.TPUEmbedding:
    features = config(vocabulary, 4)
    if rows != V:
        table = tte.TableConfig(rows, 4, name="live", combiner="sum", vocabulary=vocabulary)
        features = [tte.FeatureConfig(table), tte.FeatureConfig(table), features[2]]
    return tte.TPUEmbedding(features, B, tte.Adagrad(0.1), seed=4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["full", "delta", "background"])
def test_a_run_that_is_saved_and_loaded_goes_on_as_one_that_is_not(
    kind: str, tmp_path: Path
) -> None:
    one, other = live(), live()
    run(one, range(6))
    if kind == "delta":
        checkpoint.save(one, tmp_path, 6)
        run(one, range(6, 8))
        checkpoint.save(one, tmp_path, 8, since=6, extra={"a": 1})
    else:
        run(one, range(6, 8))
        checkpoint.save(one, tmp_path, 8, extra={"a": 1}, asynchronous=kind == "background").wait()
    run(other, range(3))
    assert checkpoint.load(other, tmp_path).extra == {"a": 1}
    for a, b in zip(run(one, range(8, 14)), run(other, range(8, 14)), strict=True):
        assert torch.equal(a, b)
    for key, value in helpers.tensors(one).items():
        assert torch.equal(value, helpers.tensors(other)[key]), key


def test_a_state_dict_holds_the_map_and_one_without_it_is_refused() -> None:
    one, other = (
        live(vocabulary=DynamicVocabulary(oov_rows=2)),
        live(vocabulary=DynamicVocabulary(oov_rows=2)),
    )
    run(one, range(5))
    state = one.state_dict()
    other.load_state_dict(state)
    for a, b in zip(run(one, range(5, 9)), run(other, range(5, 9)), strict=True):
        assert torch.equal(a, b)
    del state["live.ids"]
    with pytest.raises(RuntimeError, match=r"Missing key: live\.ids"):
        other.load_state_dict(state)


def test_a_larger_table_takes_the_ids_and_a_smaller_one_those_used_most(tmp_path: Path) -> None:
    one = live()
    run(one, range(6))
    checkpoint.save(one, tmp_path, 6)
    larger = live(30)
    checkpoint.load(larger, tmp_path, resize="allow")
    assert torch.equal(larger.read_rows("live", ALL_IDS), one.read_rows("live", ALL_IDS))
    smaller = live(9)
    with pytest.raises(ValueError, match=r"resize='allow' to load the ids that are used most"):
        checkpoint.load(smaller, tmp_path)
    checkpoint.load(smaller, tmp_path, resize="allow")
    found, wanted = (each.read_rows("live", ALL_IDS) for each in (smaller, one))
    assert (found == wanted).all(1).sum() >= 7
    run(smaller, range(6, 9))
    with pytest.raises(checkpoint.CheckpointError, match="since=6"):
        checkpoint.save(smaller, tmp_path, 9, since=6)
    with pytest.raises(ValueError, match=r"its rows were found by DynamicVocabulary.*but by"):
        checkpoint.load(live(vocabulary=DynamicVocabulary(oov_rows=3)), tmp_path)
    checkpoint.load(live(vocabulary=DynamicVocabulary("lfu", oov_rows=2)), tmp_path)


def test_a_load_while_batches_are_in_flight_is_refused(tmp_path: Path) -> None:
    one = live()
    run(one, range(2))
    checkpoint.save(one, tmp_path, 2)
    state = one.state_dict()
    one.enqueue(inputs_of(batch_of(2)))
    with pytest.raises(
        RuntimeError, match=r"1 training batches are in flight.*discard\(\) them first"
    ):
        checkpoint.load(one, tmp_path)
    with pytest.raises(RuntimeError, match=r"load_state_dict: 1 training batches are in flight"):
        one.load_state_dict(state)
    one.discard()
    checkpoint.load(one, tmp_path)


def test_ids_of_batches_that_wait_are_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    one, other = make(), make()
    one({"f": torch.tensor([1, 2])})["f"].sum().backward()
    one.apply_gradients()
    one.enqueue({"f": torch.tensor([3, 2])})
    checkpoint.save(one, tmp_path, 1)
    checkpoint.load(other, tmp_path)
    shared = helpers.tensors(other)["t.weight"][:2]
    assert torch.equal(other.read_rows("t", [1, 2]), one.read_rows("t", [1, 2]))
    assert (other.read_rows("t", [3]) == shared).all(1).any()


def test_pipelined_execution_and_the_loader_give_each_id_its_start_at_its_first_lookup() -> None:
    table = tte.TableConfig(
        41, 4, name="t", vocabulary=DynamicVocabulary(oov_rows=1), combiner="sum"
    )
    embedding = tte.TPUEmbedding(
        {"f": tte.FeatureConfig(table)}, 4, tte.SGD(0.1), seed=0,
        pipeline_execution_with_tensor_core=True,
    )  # fmt: skip
    seen: set[int] = set()
    batches = [torch.from_numpy(ALL_IDS[4 * n : 4 * n + 4]) for n in range(10)] * 2
    starts = start_values_by_id(embedding.resolved.tables[0], torch.from_numpy(ALL_IDS), "0/t")
    start_of = dict(zip(ALL_IDS.tolist(), starts, strict=True))
    loader = tte.EmbeddingLoader([{"f": each} for each in batches], embedding)
    for number, _ in enumerate(loader):
        rows = embedding.dequeue()["f"]
        rows.sum().backward()
        embedding.apply_gradients()
        found = embedding.to_host(rows.detach())
        del rows
        tte.runtime.sync()
        for id_, row in zip(batches[number].tolist(), found, strict=True):
            if id_ not in seen:
                assert torch.equal(row, start_of[id_])
            else:
                assert not torch.equal(row, start_of[id_])
            seen.add(id_)


def test_an_exported_module_and_its_program_take_raw_ids(tmp_path: Path) -> None:
    embedding = live(vocabulary=DynamicVocabulary(oov_rows=2))
    run(embedding, range(3))
    features = {f.name: f for f in embedding.resolved.features}
    names = list(features)
    example = dict(zip(names, inputs_of(batch_of(5)), strict=True))
    module = tte.export_serving(embedding, tmp_path / "t.pt2", example)
    embedding.eval()
    wanted = [embedding.to_host(each) for each in embedding(inputs_of(batch_of(5)))]
    program = torch.export.load(tmp_path / "t.pt2").module()
    as_taken = {name: (each.values.clone(), each.row_splits) for name, each in example.items()}
    for found in (module(example), program(as_taken)):
        for name, each in zip(names, wanted, strict=True):
            torch.testing.assert_close(found[name], each)


def test_metrics_and_description_tell_of_the_map(caplog: pytest.LogCaptureFixture) -> None:
    table = tte.TableConfig(6, 4, name="t", vocabulary=DynamicVocabulary(None, oov_rows=2))
    embedding = tte.TPUEmbedding({"f": tte.FeatureConfig(table)}, 4, tte.SGD(0.1), seed=0)
    embedding.build()
    embedding.enable_metrics()
    for ids in ([1, 2, 3, 1], [4, 5, 6, 1], [7, 7, 1, 1]):
        embedding({"f": torch.tensor(ids)})["f"].sum().backward()
        embedding.apply_gradients()
    told = embedding.metrics()["tables"]["t"]["vocabulary"]
    assert told == {
        "occupancy": 1.0, "admissions": 4, "evictions": 0, "expirations": 0, "turned_away": 3,
        "oov_share": 4 / 12, "ages": {0: 1, 1: 1, 3: 2},
    }  # fmt: skip
    assert [r.message for r in caplog.records if "is full" in r.message] == [
        "table 't' is full: ids without a row use its 2 shared rows (this is said once)"
    ]
    assert "6 rows, ids come and go" in embedding.describe()


def test_a_frozen_table_keeps_its_ids() -> None:
    embedding = make()
    embedding({"f": torch.tensor([1, 2])})["f"].sum().backward()
    embedding.apply_gradients()
    embedding.freeze("t")
    before = helpers.tensors(embedding)
    embedding({"f": torch.tensor([3, 2])})["f"].sum().backward()
    embedding.apply_gradients()
    for key, value in helpers.tensors(embedding).items():
        assert torch.equal(value, before[key])


def test_what_cannot_be_is_said_at_construction() -> None:
    with pytest.raises(ValueError, match=r"eviction must be 'lru', 'lfu' or None, got 'fifo'"):
        DynamicVocabulary("fifo")
    with pytest.raises(ValueError, match=r"admission must be an int in \[1, 255\], got 256"):
        DynamicVocabulary(admission=256)
    live_ = DynamicVocabulary(oov_rows=8)
    with pytest.raises(ValueError, match=r"8 oov_rows, vocabulary_size must be above that"):
        tte.TableConfig(8, 4, vocabulary=live_)
    with pytest.raises(ValueError, match=r"RowIdInitializer fills rows by their numbers"):
        tte.TableConfig(9, 4, vocabulary=live_, initializer=tte.RowIdInitializer())
    with pytest.raises(ValueError, match=r"initializer must be None, torch\.zeros or torch\.ones"):
        tte.TableConfig(9, 4, vocabulary=live_, initializer=torch.nn.init.normal_)
    features = {"f": tte.FeatureConfig(tte.TableConfig(9, 4, name="t", vocabulary=live_))}
    with pytest.raises(ValueError, match=r"id_bounds='drop'"):
        tte.TPUEmbedding(features, 4, None, id_bounds="drop")
    described = tte.config_to_dict(features)
    assert tte.config_from_dict(described)["f"].table.vocabulary == live_


def test_a_replayed_step_is_traced_instead_and_says_so() -> None:
    embedding = make()

    def step(ids: torch.Tensor) -> torch.Tensor:
        rows = embedding({"f": ids})["f"]
        rows.sum().backward()
        embedding.apply_gradients()
        return rows.detach().sum()

    replayed = tte.replay(step, embedding)
    with pytest.warns(RuntimeWarning, match=r"a table has a DynamicVocabulary"):
        replayed(torch.tensor([0, 1]))
    for n in range(4):
        replayed(torch.tensor([n, n + 1]))
    assert replayed.replayed == 0

"""An update that a pipelined module holds belongs to the tables: any module sees it, in its order."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import helpers
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

B = 2


def make(**options: object) -> tte.TPUEmbedding:
    table = tte.TableConfig(8, 4, initializer=torch.zeros, name="t", combiner="sum")
    config = {"f": tte.FeatureConfig(table)}
    return tte.TPUEmbedding(config, B, tte.SGD(1.0), **options)  # type: ignore[arg-type]


def pair() -> tuple[tte.TPUEmbedding, tte.TPUEmbedding]:
    """A pipelined module that owns the tables, and a plain one on the same tables."""
    owner = make(pipeline_execution_with_tensor_core=True)
    owner.build()
    return owner, make(initialize_tpu_embedding=False)


def step(embedding: tte.TPUEmbedding, *ids: int, gradient: float = 1.0) -> Tensor:
    """One training step: each row loses its gradient. Gives the activations before it."""
    embedding.enqueue({"f": torch.tensor(ids)})
    found = embedding.dequeue()["f"]
    embedding.apply_gradients({"f": torch.full((B, 4), gradient).to(embedding.device)})
    tte.runtime.sync()
    return found.detach().cpu()[:, 0]  # type: ignore[no-any-return]


def expected(*rows: int) -> Tensor:
    """The weight after one update of these rows by a gradient of 1."""
    weight = torch.zeros(8, 4)
    weight[[*rows]] = -1.0
    return weight


def by_state_dict(embedding: tte.TPUEmbedding, run: Path) -> Tensor:
    weight: Tensor = embedding.state_dict()["t.weight"]
    return weight


def by_save(embedding: tte.TPUEmbedding, run: Path) -> Tensor:
    checkpoint.save(embedding, run, 1)
    with checkpoint.open(run) as reader:
        return reader.read("t", "weight", 0, 8)


def by_background_save(embedding: tte.TPUEmbedding, run: Path) -> Tensor:
    checkpoint.save(embedding, run, 1, asynchronous=True).wait()
    with checkpoint.open(run) as reader:
        return reader.read("t", "weight", 0, 8)


def by_rows(embedding: tte.TPUEmbedding, run: Path) -> Tensor:
    return embedding.shard.read_rows(0, 0, 8)["weight"]


def by_scattered_rows(embedding: tte.TPUEmbedding, run: Path) -> Tensor:
    return embedding.shard.read_scattered(0, torch.arange(8))["weight"]


def by_export(embedding: tte.TPUEmbedding, run: Path) -> Tensor:
    return tte.export_serving(embedding)({"f": torch.arange(8)})["f"].detach()


def by_evaluation(embedding: tte.TPUEmbedding, run: Path) -> Tensor:
    embedding.enqueue({"f": torch.arange(8)}, training=False, name="evaluation")
    return embedding.dequeue("evaluation")["f"].cpu()  # type: ignore[no-any-return]


def by_flush(embedding: tte.TPUEmbedding, run: Path) -> Tensor:
    embedding.flush()
    tables = embedding._tables.engine.store.read()
    return tables[0]["weight"]


READERS = [
    by_state_dict, by_save, by_background_save, by_rows, by_scattered_rows, by_export, by_evaluation,
    by_flush,
]  # fmt: skip


@pytest.mark.parametrize("which", ["owner", "second", "second, the owner gone"])
@pytest.mark.parametrize("read", READERS, ids=lambda each: each.__name__)
def test_what_looks_at_the_tables_sees_a_held_update_through_any_module(
    read: Callable[[tte.TPUEmbedding, Path], Tensor], which: str, tmp_path: Path
) -> None:
    owner, second = pair()
    step(owner, 1, 2)
    looking = owner if which == "owner" else second
    if which.endswith("gone"):
        del owner
        gc.collect()
    assert torch.equal(read(looking, tmp_path), expected(1, 2))
    assert torch.equal(read(looking, tmp_path / "again"), expected(1, 2))  # and it was applied once


def test_rows_obtained_before_an_update_was_held_show_it() -> None:
    owner, second = pair()
    shard = second.shard
    step(owner, 1, 2)
    assert torch.equal(shard.read_rows(0, 0, 8)["weight"], expected(1, 2))


@pytest.mark.parametrize("which", ["owner", "second"])
def test_a_delta_has_the_rows_of_a_held_update(which: str, tmp_path: Path) -> None:
    owner, second = pair()
    saving = owner if which == "owner" else second
    checkpoint.save(saving, tmp_path, 1)
    step(owner, 1, 2)
    checkpoint.save(saving, tmp_path, 2, since=1)
    step(owner, 3, 4)  # held while the delta before it was saved
    checkpoint.save(saving, tmp_path, 3, since=2)
    with checkpoint.open(tmp_path, 2) as reader:
        assert torch.equal(reader.read("t", "weight", 0, 8), expected(1, 2))
    with checkpoint.open(tmp_path, 3) as reader:
        assert torch.equal(reader.read("t", "weight", 0, 8), expected(1, 2, 3, 4))


def load_state(embedding: tte.TPUEmbedding, weight: Tensor, run: Path) -> None:
    embedding.load_state_dict({"t.weight": weight})


def load_checkpoint(embedding: tte.TPUEmbedding, weight: Tensor, run: Path) -> None:
    source = make(device="cpu")
    source.load_state_dict({"t.weight": weight})
    checkpoint.save(source, run, 1)
    checkpoint.load(embedding, run)


def write_rows(embedding: tte.TPUEmbedding, weight: Tensor, run: Path) -> None:
    embedding.shard.write_rows(0, 0, {"weight": weight})


@pytest.mark.parametrize("which", ["owner", "second"])
@pytest.mark.parametrize("load", [load_state, load_checkpoint, write_rows])
def test_a_held_update_does_not_land_on_what_is_loaded_through_any_module(
    load: Callable[[tte.TPUEmbedding, Tensor, Path], None], which: str, tmp_path: Path
) -> None:
    owner, second = pair()
    step(owner, 1, 2)
    weight = torch.full((8, 4), 5.0)
    load(owner if which == "owner" else second, weight, tmp_path)
    for each in (owner, second):
        assert torch.equal(each.state_dict()["t.weight"], weight)
    # A batch of the owner that comes now reads what was loaded.
    assert step(owner, 1, 3).tolist() == [5.0, 5.0]


def test_a_training_step_of_another_module_sees_a_held_update_and_follows_it() -> None:
    owner, second = pair()
    step(owner, 1, 2)
    assert step(second, 1, 5).tolist() == [-1.0, 0.0]
    wanted = expected(1, 2, 5)
    wanted[1] = -2.0
    assert torch.equal(owner.state_dict()["t.weight"], wanted)


def test_an_update_of_another_module_follows_one_that_was_held_before_it() -> None:
    """Adagrad's steps depend on their order."""
    table = tte.TableConfig(8, 4, initializer=torch.zeros, name="t", combiner="sum")
    config = {"f": tte.FeatureConfig(table)}

    def run(pipelined: bool) -> dict[str, Tensor]:
        first = tte.TPUEmbedding(
            config, B, tte.Adagrad(1.0), pipeline_execution_with_tensor_core=pipelined
        )
        first.build()
        second = tte.TPUEmbedding(config, B, tte.Adagrad(1.0), initialize_tpu_embedding=False)
        second.enqueue({"f": torch.tensor([1, 2])})
        second.dequeue()
        step(first, 1, 2, gradient=3.0)
        second.apply_gradients({"f": torch.ones(B, 4).to(second.device)})
        tte.runtime.sync()
        return helpers.tensors(first)

    plain, held = run(False), run(True)
    assert all(torch.equal(held[key], plain[key]) for key in plain)


def test_two_pipelined_modules_on_one_table_lose_no_update() -> None:
    owner = make(pipeline_execution_with_tensor_core=True)
    owner.build()
    second = make(initialize_tpu_embedding=False, pipeline_execution_with_tensor_core=True)
    step(owner, 1, 2)
    assert step(second, 1, 3).tolist() == [
        -1.0,
        0.0,
    ]  # the owner's update is applied, its own is held
    assert step(second, 3, 1).tolist() == [0.0, -1.0]  # all but the last of its own
    step(owner, 4, 5)
    wanted = expected(2, 4, 5)
    wanted[1], wanted[3] = -3.0, -2.0
    for each in (second, owner):
        assert torch.equal(each.state_dict()["t.weight"], wanted)


@pytest.mark.parametrize("which", ["owner", "second"])
def test_a_batch_that_waits_reads_the_rows_of_its_schedule_whoever_looks(which: str) -> None:
    owner, second = pair()
    step(owner, 1, 2)
    owner.enqueue({"f": torch.tensor([1, 3])})
    looking = owner if which == "owner" else second
    assert torch.equal(looking.state_dict()["t.weight"], expected(1, 2))
    assert owner.dequeue()["f"].detach().cpu()[:, 0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("which", ["owner", "second"])
def test_freezing_keeps_a_held_update_and_stops_the_next(which: str) -> None:
    owner, second = pair()
    step(owner, 1, 2)
    (owner if which == "owner" else second).freeze("t")
    step(owner, 3, 4)
    for each in (second, owner):
        assert torch.equal(each.state_dict()["t.weight"], expected(1, 2))
    (second if which == "owner" else owner).unfreeze("t")
    step(owner, 3, 4)
    assert torch.equal(second.state_dict()["t.weight"], expected(1, 2, 3, 4))


@pytest.mark.parametrize("which", ["owner", "second"])
def test_metrics_neither_lose_nor_apply_a_held_update(which: str) -> None:
    owner, second = pair()
    measuring = owner if which == "owner" else second
    measuring.enable_metrics(every=1)
    step(owner, 1, 2)
    if which == "owner":
        assert measuring.metrics()["tables"]["t"]["rows_touched"] == 2
    assert measuring.metrics()["tables"]["t"]["gradient_norm"] is None  # it was not applied yet
    step(owner, 3, 4)
    tte.runtime.sync()
    assert measuring.metrics()["tables"]["t"]["gradient_norm"] == pytest.approx(8**0.5)
    assert torch.equal(second.state_dict()["t.weight"], expected(1, 2, 3, 4))


def test_a_module_that_holds_nothing_can_be_collected() -> None:
    owner, second = pair()
    step(owner, 1, 2)
    owner.flush()
    assert not second._tables.engine.holding


def test_what_one_module_stops_counting_another_goes_on_to_count() -> None:
    owner, second = pair()
    second.enable_metrics(every=1)
    owner.enable_metrics(every=1)
    second.disable_metrics()
    step(owner, 1, 2)
    step(owner, 3, 4)
    assert owner.metrics()["tables"]["t"]["gradient_norm"] == pytest.approx(8**0.5)


def test_warnings_of_a_step_point_at_the_line_that_called_it() -> None:
    embedding = make()
    embedding.enqueue({"f": torch.tensor([1, 2])})
    embedding.dequeue()["f"].sum().backward()
    optimizer = tte.EmbeddingOptimizer(embedding)
    optimizer.zero_grad()
    with pytest.warns(RuntimeWarning, match="is dropped without a step") as dropped:
        embedding({"f": torch.tensor([1, 2])})
    config = [tte.FeatureConfig(tte.TableConfig(8, 4, name=name)) for name in ("a", "b")]
    two = tte.TPUEmbedding(config, B, tte.SGD(1.0))
    two.enqueue([torch.tensor([1, 2])] * 2)
    found = two.dequeue()
    with pytest.warns(RuntimeWarning, match="no gradient for the features") as missing:
        two.apply_gradients([torch.ones_like(found[0]), None])
    assert {each.filename for each in (dropped[0], missing[0])} == {__file__}

"""Second objects on the same tables, and TorchRec's input type."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from backends import DEVICE
from models import helpers

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint


def features() -> tuple[object, ...]:
    return tuple(helpers.as_kind(rows, "ragged") for rows in helpers.GOLDEN_IDS)


def test_a_second_object_sees_and_changes_the_same_tables() -> None:
    owner = tte.TPUEmbedding(helpers.golden_config(), 4, tte.Adagrad(0.1))
    owner.build()
    second = tte.TPUEmbedding(
        helpers.golden_config(), 4, tte.Adagrad(0.7), initialize_tpu_embedding=False
    )
    helpers.train_step(second, features())
    one, other = helpers.tensors(owner), helpers.tensors(second)  # but for the learning rates
    assert all(torch.equal(one[key], other[key]) for key in one), (
        "saving gives what the device holds"
    )
    assert float(one["video.accumulators"].max()) > 1
    # an update by one between dequeue and apply of the other is not lost
    owner.enqueue(features())
    activations = owner.dequeue()
    helpers.train_step(second, features(), gradients=[torch.ones(a.shape) for a in activations])
    before = owner.state_dict()
    owner.apply_gradients(tuple(torch.ones_like(each) for each in activations))
    tte.runtime.sync()
    g = (owner.state_dict()["user.accumulators"] - before["user.accumulators"])[3]
    torch.testing.assert_close(g, torch.full((2,), 4.0))


@pytest.mark.parametrize("older", [False, True])
def test_a_second_object_may_be_made_before_the_tables_are_built(older: bool) -> None:
    def make(**options: bool) -> tte.TPUEmbedding:
        return tte.TPUEmbedding(helpers.golden_config(), 4, tte.Adagrad(0.1), **options)

    before = make()
    if older:
        before.build()  # equal tables, but not those that were made last
    owner = make()
    second = make(initialize_tpu_embedding=False)
    helpers.train_step(second, features())
    one, other = helpers.tensors(owner), helpers.tensors(second)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(before.state_dict()["video.weight"], one["video.weight"])


@pytest.mark.parametrize("how", ["other", "gone"])
def test_without_tables_of_an_equal_config_there_is_a_runtime_error(how: str) -> None:
    owner = tte.TPUEmbedding(helpers.golden_config(), 4, tte.FTRL(0.123, beta=7.0))
    owner.build()
    optimizer = owner.resolved.tables[0].optimizer
    if how == "other":
        optimizer = tte.FTRL(0.123, beta=8.0)
    else:
        del owner
        gc.collect()
    with pytest.raises(
        RuntimeError,
        match=f"no tables of this configuration are initialised on {DEVICE}",
    ):
        tte.TPUEmbedding(helpers.golden_config(), 4, optimizer, initialize_tpu_embedding=False)


def test_restoring_before_build_is_what_build_starts_from() -> None:
    source = tte.TPUEmbedding(helpers.golden_config(), 4, tte.SGD(), device="cpu")
    state = {key: value + 1 for key, value in helpers.tensors(source).items()}
    embedding = tte.TPUEmbedding(helpers.golden_config(), 4, tte.SGD())
    embedding.load_state_dict(state)
    embedding.build()
    assert all(torch.equal(embedding.state_dict()[key], state[key]) for key in state)


def test_serving_objects_coexist_serve_part_of_the_features_and_name_variables_as_tf() -> None:
    config = dict(zip(("watched", "favorited", "friends"), helpers.golden_config(), strict=True))
    plain = tte.TPUEmbeddingForServing(config)
    with_slots = tte.TPUEmbeddingForServing(config, tte.Adagrad())
    assert list(plain.variables["video"]) == ["parameters"]
    assert list(with_slots.variables["video"]) == ["parameters", "accumulators"]
    found = plain({"friends": tte.Ragged.from_lists([[0, 1], []])})
    assert list(found) == ["friends"]
    assert torch.equal(found["friends"], torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"unexpected \['strangers'\]"):
        plain({"strangers": torch.tensor([0])})


class KeyedJagged:
    """The methods of TorchRec's KeyedJaggedTensor that count here."""

    def __init__(
        self, rows: dict[str, list[list[int]]], weights: list[float] | None = None
    ) -> None:
        self.rows = rows
        self.weights = weights

    def keys(self) -> list[str]:
        return list(self.rows)

    def values(self) -> torch.Tensor:
        return torch.tensor([i for rows in self.rows.values() for row in rows for i in row])

    def offsets(self) -> torch.Tensor:
        lengths = [len(row) for rows in self.rows.values() for row in rows]
        return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])

    def stride(self) -> int:
        return len(next(iter(self.rows.values())))

    def weights_or_none(self) -> torch.Tensor | None:
        return None if self.weights is None else torch.tensor(self.weights)


def test_a_keyed_jagged_tensor_is_a_dict_of_ragged_features() -> None:
    a = tte.TableConfig(4, 2, combiner="sum", initializer=helpers.arange_table, name="a")
    config = {"x": tte.FeatureConfig(a), "y": tte.FeatureConfig(a)}
    rows = {"y": [[1], [2, 3]], "x": [[], [0, 0]]}
    plain = {key: tte.Ragged.from_lists(value) for key, value in rows.items()}
    weights = {"y": [[1.0], [2.0, 3.0]], "x": [[], [4.0, 5.0]]}
    flat = [w for value in weights.values() for row in value for w in row]
    ragged = {key: tte.Ragged.from_lists(value, torch.float32) for key, value in weights.items()}
    embedding = tte.TPUEmbedding(config, 2, tte.SGD())
    for keyed, wanted in (
        (KeyedJagged(rows), embedding.eval()(plain)),
        (KeyedJagged(rows, flat), embedding.eval()(plain, ragged)),
    ):
        found = embedding.eval()(keyed)
        assert list(found) == ["x", "y"]
        assert all(torch.equal(found[key].cpu(), wanted[key].cpu()) for key in found)
    with pytest.raises(ValueError, match="beside a KeyedJaggedTensor, which brings its own"):
        embedding.enqueue(KeyedJagged(rows), ragged)
    with pytest.raises(ValueError, match=r"missing \['x'\]"):
        embedding.enqueue(KeyedJagged({"y": rows["y"]}))


@pytest.mark.parametrize("look", ["inference", "state_dict", "save"])
@pytest.mark.parametrize("alive", [True, False])
def test_an_update_that_one_object_holds_back_is_seen_through_the_other(
    look: str, alive: bool, tmp_path: Path
) -> None:
    config = {"id": tte.FeatureConfig(tte.TableConfig(5, 2, name="rows"))}
    ids = {"id": torch.tensor([0, 1])}
    first = tte.TPUEmbedding(
        config, 2, tte.SGD(1.0), seed=0, pipeline_execution_with_tensor_core=True
    )
    start = first.state_dict()["rows.weight"]
    second = tte.TPUEmbedding(config, 4, tte.SGD(1.0), initialize_tpu_embedding=False)
    first(ids)["id"].sum().backward()
    first.apply_gradients()
    if not alive:
        del first
        gc.collect()
    if look == "inference":
        found = second.eval()(ids)["id"].cpu()
    elif look == "state_dict":
        found = second.state_dict()["rows.weight"][:2]
    else:
        checkpoint.save(second, tmp_path, 1)
        other = tte.TPUEmbedding(config, 2, tte.SGD(1.0), device="cpu")
        checkpoint.load(other, tmp_path)
        found = other.state_dict()["rows.weight"][:2]
    assert torch.equal(found, start[:2] - 1.0)


@pytest.mark.parametrize("how", ["load_state_dict", "checkpoint"])
def test_what_one_object_loads_is_not_changed_by_an_update_that_the_other_held_back(
    how: str, tmp_path: Path
) -> None:
    config = {"id": tte.FeatureConfig(tte.TableConfig(5, 2, name="rows"))}
    first = tte.TPUEmbedding(
        config, 2, tte.SGD(1.0), seed=0, pipeline_execution_with_tensor_core=True
    )
    start = first.state_dict()
    second = tte.TPUEmbedding(config, 4, tte.SGD(1.0), initialize_tpu_embedding=False)
    checkpoint.save(first, tmp_path, 1)
    first({"id": torch.tensor([0, 1])})["id"].sum().backward()
    first.apply_gradients()
    if how == "load_state_dict":
        second.load_state_dict(start)
    else:
        checkpoint.load(second, tmp_path)
    assert torch.equal(first.state_dict()["rows.weight"], start["rows.weight"])


def test_objects_that_are_gone_leave_nothing_of_their_tables() -> None:
    config = {"id": tte.FeatureConfig(tte.TableConfig(5, 2, name="rows"))}
    first = tte.TPUEmbedding(config, 2, tte.SGD(1.0), pipeline_execution_with_tensor_core=True)
    first.build()
    engine = weakref.ref(first._tables.engine)
    for _ in range(3):
        second = tte.TPUEmbedding(
            config,
            2,
            tte.SGD(1.0),
            initialize_tpu_embedding=False,
            pipeline_execution_with_tensor_core=True,
        )
        second.build()
        second.enqueue({"id": torch.tensor([0, 1])})
        assert not first._tables.engine.holding, "nothing is held back for them"
    del first, second
    gc.collect()
    assert engine() is None

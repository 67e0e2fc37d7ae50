"""Export for serving: a plain module equal to the lookup it came from."""

from __future__ import annotations

import helpers
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import torch_tpu_embedding as tte
from torch_tpu_embedding.export import ServingModule

Rows = list[list[int]]


def trained() -> tte.TPUEmbedding:
    config = {
        combiner: tte.FeatureConfig(tte.TableConfig(9, 4, combiner=combiner, name=f"of.{combiner}"))
        for combiner in ("mean", "sum", "sqrtn")
    }
    rounded = tte.QuantizationConfig(9, -0.5, 0.5)
    config["dense"] = tte.FeatureConfig(tte.TableConfig(9, 3, quantization_config=rounded))
    config["places"] = tte.FeatureConfig(config["sum"].table)
    config["sequence"] = tte.FeatureConfig(config["mean"].table, max_sequence_length=3)
    return tte.TPUEmbedding(config, 3, tte.SGD(), seed=3, device="cpu")


EMBEDDING = trained()
MODULE = tte.export_serving(EMBEDDING)
bags = st.lists(st.lists(st.integers(0, 8), max_size=5), min_size=3, max_size=3)


def ragged(rows: Rows) -> tte.Ragged:
    return tte.Ragged.from_lists(rows)


def pair(value: tte.Ragged) -> tuple[torch.Tensor, torch.Tensor]:
    return value.values, value.row_splits


@given(bags, st.data())
def test_the_exported_module_equals_the_lookup_of_every_kind(
    rows: Rows, data: st.DataObject
) -> None:
    weight = st.floats(-2, 2, width=16)
    flat = data.draw(st.lists(weight, min_size=sum(map(len, rows)), max_size=sum(map(len, rows))))
    ids = ragged(rows)
    weights = tte.Ragged(torch.tensor(flat, dtype=torch.float32), ids.row_splits)
    dense, places = torch.tensor([1, 8, 0]), torch.arange(6).reshape(3, 2, 1)
    features = {
        "mean": ids,
        "sum": ids,
        "sqrtn": ids,
        "dense": dense,
        "places": places,
        "sequence": ids,
    }
    given_weights = {"mean": None, "sum": weights, "sqrtn": weights}
    every = {name: given_weights.get(name) for name in features}
    wanted = EMBEDDING(features, every)
    found = MODULE(
        {
            "mean": pair(ids),
            "sum": (*pair(ids), weights.values),
            "sqrtn": (*pair(ids), weights.values),
            "dense": dense,
            "places": places,
            "sequence": pair(ids),
        }
    )
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_weighted_mean_whose_weights_cancel_is_zero() -> None:
    values, splits = torch.tensor([1, 2]), torch.tensor([0, 2])
    found = MODULE({"mean": (values, splits, torch.tensor([1.5, -1.5]))})["mean"]
    assert torch.equal(found, torch.zeros(1, 4))


def test_torch_export_takes_it_with_any_number_of_ids_and_samples() -> None:
    inputs = {"mean": pair(ragged([[1, 2], [], [3]])), "sequence": pair(ragged([[4], [5, 6], [7]]))}
    splits, ids = torch.export.Dim("splits", min=3), torch.export.Dim.AUTO
    shapes = {name: ({0: ids}, {0: splits}) for name in inputs}
    program = torch.export.export(MODULE, (inputs,), dynamic_shapes=({**shapes},))
    other = {
        "mean": pair(ragged([[8], [1, 1], [0, 2, 4], [], [5]])),
        "sequence": pair(ragged([[1, 2, 3, 4], [], [5], [], [6]])),
    }
    found, wanted = program.module()(other), MODULE(other)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


def test_its_tables_are_embeddings_under_the_tables_names_and_do_not_train() -> None:
    assert isinstance(MODULE, ServingModule)
    assert set(MODULE.state_dict()) == {
        "tables.of_mean.weight", "tables.of_sum.weight", "tables.of_sqrtn.weight",
        "tables.table_0.weight",
    }  # fmt: skip
    assert not any(parameter.requires_grad for parameter in MODULE.parameters())


def test_what_was_trained_on_the_device_is_what_is_exported() -> None:
    embedding = tte.TPUEmbedding(helpers.golden_config(), 4, tte.Adagrad(0.1))
    ids = tuple(helpers.as_kind(rows, "ragged") for rows in helpers.GOLDEN_IDS)
    helpers.train_step(embedding, ids)
    embedding.enqueue(ids, training=False)
    wanted = [each.cpu() for each in embedding.dequeue()]
    names = [feature.name for feature in embedding.resolved.features]
    found = tte.export_serving(embedding)(
        {name: pair(value) for name, value in zip(names, ids, strict=True)}
    )
    for name, value in zip(names, wanted, strict=True):
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            [tte.FeatureConfig(tte.TableConfig(2, 2, name=name)) for name in ("a.b", "a_b")],
            "two tables would be named 'a_b'",
        ),
        ([tte.FeatureConfig(tte.TableConfig(2, 2), name="x")] * 2, "two features are named 'x'"),
    ],
)
def test_names_that_would_clash_are_refused(config: object, message: str) -> None:
    embedding = tte.TPUEmbedding(config, 1, None, device="cpu")
    with pytest.raises(ValueError, match=message):
        tte.export_serving(embedding)

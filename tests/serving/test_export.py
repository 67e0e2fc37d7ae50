"""Export for serving: a plain module equal to the lookup it came from."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from models import helpers

import torch_tpu_embedding as tte
from torch_tpu_embedding.serving.served_module import ServingModule

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
    given_weights = {"sum": weights, "sqrtn": weights}
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
        assert torch.equal(found[name], value), name


def test_a_weighted_mean_whose_weights_cancel_is_zero() -> None:
    values, splits = torch.tensor([1, 2]), torch.tensor([0, 2])
    found = MODULE({"mean": (values, splits, torch.tensor([1.5, -1.5]))})["mean"]
    assert torch.equal(found, torch.zeros(1, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e8, 1e17, -1e30])
@pytest.mark.parametrize("name", ["mean", "sum", "sqrtn"])
def test_the_weights_of_one_sample_do_not_disturb_the_others(name: str, bad: float) -> None:
    ids, rest = ragged([[1, 4], [2, 3], [], [5]]), [0.1, 0.3, 2.0]
    found = MODULE({name: (*pair(ids), torch.tensor([bad, 1.0, *rest]))})[name]
    wanted = MODULE({name: (*pair(ids), torch.tensor([1.0, 1.0, *rest]))})[name]
    assert torch.equal(found[1:], wanted[1:])


def with_ids_outside(id_bounds: str) -> tte.TPUEmbedding:
    features = {
        "mean": tte.FeatureConfig(tte.TableConfig(9, 4, combiner="mean", name="t")),
        "weighted": tte.FeatureConfig(tte.TableConfig(9, 4, combiner="sqrtn", name="s")),
        "dense": tte.FeatureConfig(tte.TableConfig(9, 3, name="d")),
        "sequence": tte.FeatureConfig(tte.TableConfig(9, 2, name="q"), max_sequence_length=2),
    }
    return tte.TPUEmbedding(features, 3, None, seed=3, device="cpu", id_bounds=id_bounds)


OUTSIDE = ragged([[1, -1, 99], [9], [8, 2]])


def batch_with_ids_outside() -> dict[str, object]:
    weights = tte.Ragged(torch.linspace(0.5, 2, 6), OUTSIDE.row_splits)
    dense = torch.tensor([3, -2, 9])
    return {"mean": OUTSIDE, "weighted": (OUTSIDE, weights), "dense": dense, "sequence": OUTSIDE}


def as_program_takes(batch: dict[str, object]) -> dict[str, object]:
    """With tensors of its own for each input, and no Ragged."""

    def plain(value: object) -> object:
        if isinstance(value, tuple):
            return (*plain(value[0]), value[1].values.clone())
        if isinstance(value, tte.Ragged):
            return value.values.clone(), value.row_splits.clone()
        return value.clone()

    return {name: plain(value) for name, value in batch.items()}


@pytest.mark.parametrize("id_bounds", ["drop", "warn_and_drop"])
def test_ids_outside_are_dropped_where_the_embedding_drops_them(
    id_bounds: str, tmp_path: Path
) -> None:
    embedding, batch = with_ids_outside(id_bounds), batch_with_ids_outside()
    with (
        torch.no_grad()
    ):  # padding may lend a row that is not finite, but its values must go nowhere
        for table in embedding.embedding_tables.values():
            table[0] = float("nan")
    ids = {name: v[0] if isinstance(v, tuple) else v for name, v in batch.items()}
    weights = {name: v[1] if isinstance(v, tuple) else None for name, v in batch.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = embedding(ids, weights)
    module = tte.export_serving(embedding, tmp_path / "t.pt2", batch)
    program = torch.export.load(tmp_path / "t.pt2").module()
    for found in (module(batch), program(as_program_takes(batch))):
        for name, value in wanted.items():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", ["mean", "weighted", "dense", "sequence"])
@pytest.mark.parametrize("bad", [-1, 9])
def test_ids_outside_are_errors_where_the_embedding_raises(
    name: str, bad: int, raising: tuple[ServingModule, Any]
) -> None:
    module, program = raising
    ids = ragged(
        [[1, 2], [3, 4, bad], [5]]
    )  # in a sequence of 2 the bad one is cut off: still an error
    batch = {
        "mean": ids,
        "weighted": (ids, tte.Ragged(torch.ones(6), ids.row_splits)),
        "dense": torch.tensor([1, bad, 2]),
        "sequence": ids,
    }
    good = batch_with_ids_outside()
    good = {n: v if n == name else batch_of_zeros(good[n]) for n, v in batch.items()}
    for run, given_batch in ((module, good), (program, as_program_takes(good))):
        with pytest.raises(RuntimeError, match=rf"feature '{name}'.*an id is outside \[0, 9\)"):
            run(given_batch)


@pytest.fixture(scope="module")
def raising(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServingModule, Any]:
    path = tmp_path_factory.mktemp("program") / "t.pt2"
    module = tte.export_serving(with_ids_outside("raise"), path, batch_with_ids_outside())
    return module, torch.export.load(path).module()


def batch_of_zeros(value: Any) -> Any:
    if isinstance(value, tuple):
        return tte.Ragged(torch.zeros_like(value[0].values), value[0].row_splits), value[1]
    if isinstance(value, tte.Ragged):
        return tte.Ragged(torch.zeros_like(value.values), value.row_splits)
    return torch.zeros_like(value)


def test_row_splits_that_do_not_cover_the_ids_are_an_error_in_the_program_too(
    raising: tuple[ServingModule, Any],
) -> None:
    _, program = raising
    good = {name: batch_of_zeros(v) for name, v in batch_with_ids_outside().items()}
    for splits in ([0, 1, 3, 5], [1, 2, 3, 6], [0, 4, 3, 6]):
        batch = as_program_takes(good)
        batch["mean"] = (torch.zeros(6, dtype=torch.int64), torch.tensor(splits))
        with pytest.raises(RuntimeError, match=r"feature 'mean'.*row splits must rise from 0 to N"):
            program(batch)


class Model(torch.nn.Module):
    """A model around the tables, as users have it."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = MODULE
        self.head = torch.nn.Linear(4 + 4 + 3 + 12 + 2, 1)

    def forward(self, features: Any, dense: torch.Tensor) -> torch.Tensor:
        rows = self.tables(features)
        parts = [rows["mean"], rows["sqrtn"], rows["dense"], rows["sequence"].flatten(1), dense]
        return self.head(torch.cat(parts, dim=1))


def batch_of(samples: int, length: int) -> dict[str, Any]:
    """Bags whose features have different numbers of ids."""

    def bags(longer: int) -> tte.Ragged:
        lengths = torch.full((samples,), length + longer if length else 0)
        if samples > 1:
            lengths[::2] = 0
        return tte.Ragged.from_lengths(torch.arange(int(lengths.sum())) % 9, lengths)

    weighted = bags(1)
    weights = torch.linspace(0.5, 2, len(weighted.values))
    return {
        "mean": bags(0),
        "sqrtn": (weighted, tte.Ragged(weights, weighted.row_splits)),
        "sequence": bags(2),
        "dense": torch.arange(samples) % 9,
        "places": (torch.arange(2 * samples) % 9).reshape(samples, 2, 1),
    }


@pytest.mark.parametrize("example", [0, 1, 5])
def test_a_program_takes_any_number_of_samples_and_ids_whatever_the_example(
    example: int, tmp_path: Path
) -> None:
    path, model = tmp_path / "tables.pt2", Model().eval()
    tte.export_serving(EMBEDDING, path, batch_of(example, 1))
    tte.export_program(model, tmp_path / "model.pt2", batch_of(example, 1), torch.ones(example, 2))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.pt2", "tables.pt2"]
    tables = torch.export.load(path).module()
    whole = torch.export.load(tmp_path / "model.pt2").module()
    for samples in (0, 1, 2, 3, 1000):
        for length in (0, 1, 4):
            batch, dense = batch_of(samples, length), torch.ones(samples, 2)
            wanted = MODULE(batch)
            found = tables(as_program_takes(batch))
            assert set(found) == set(wanted)
            for name, value in wanted.items():
                assert torch.equal(found[name], value), (name, samples, length)
            torch.testing.assert_close(whole(as_program_takes(batch), dense), model(batch, dense))


def test_a_program_leaves_out_padding_and_weights_that_a_feature_does_not_take(
    tmp_path: Path,
) -> None:
    mean, sums = (
        tte.TableConfig(9, 4, name=name, combiner=name, padding_idx=2) for name in ("mean", "sum")
    )
    config = {
        "mean": tte.FeatureConfig(mean),
        "bare": tte.FeatureConfig(sums, is_weighted=False),
        "sequence": tte.FeatureConfig(mean, max_sequence_length=2),
        "dense": tte.FeatureConfig(mean),
    }
    embedding = tte.TPUEmbedding(config, 2, None, seed=1, device="cpu")
    ids = ragged([[1, 2, 3], [2]])
    weights = tte.Ragged(torch.tensor([0.5, 2.0, 3.0, 4.0]), ids.row_splits)
    dense = torch.tensor([2, 4])
    features = {"mean": ids, "bare": ids, "sequence": ids, "dense": dense}
    wanted = embedding(features, {**dict.fromkeys(features), "mean": weights, "bare": weights})
    batch = {**features, "mean": (ids, weights), "bare": (ids, weights)}
    module = tte.export_serving(embedding, tmp_path / "t.pt2", batch)
    program = torch.export.load(tmp_path / "t.pt2").module()
    for found in (module(batch), program(as_program_takes(batch))):
        for name, value in wanted.items():
            assert torch.equal(found[name], value), name


def test_one_tensor_given_for_several_features_is_not_taken_for_one_input(tmp_path: Path) -> None:
    ids = ragged([[1, 2], [3]])
    tte.export_serving(EMBEDDING, tmp_path / "t.pt2", {"mean": ids, "sum": ids})
    program = torch.export.load(tmp_path / "t.pt2").module()
    batch = {"mean": ids, "sum": ragged([[7], [8]])}
    for name, value in MODULE(batch).items():
        assert torch.equal(program(as_program_takes(batch))[name], value)


def test_a_feature_with_an_output_shape_keeps_its_number_of_samples(tmp_path: Path) -> None:
    table = tte.TableConfig(9, 4, name="t")
    config = {"places": tte.FeatureConfig(table, output_shape=(2, 3))}
    embedding = tte.TPUEmbedding(config, 2, None, device="cpu")
    for rows in ([[1], [2, 3], [], [4], [5, 5], [6]], [[1, 2, 3, 4], [5]]):
        batch = {"places": ragged(rows)}
        module = tte.export_serving(embedding, tmp_path / "t.pt2", batch)
        program = torch.export.load(tmp_path / "t.pt2").module()
        wanted = embedding(batch)["places"]
        assert torch.equal(module(batch)["places"], wanted)
        assert torch.equal(program(as_program_takes(batch))["places"], wanted)


def test_a_program_is_read_with_plain_torch_alone(tmp_path: Path) -> None:
    batch = {"sequence": ragged([[1]])}
    tte.export_serving(EMBEDDING, tmp_path / "t.pt2", batch)
    code = (
        "import sys, torch; program = torch.export.load(sys.argv[1]).module()\n"
        "print(program({'sequence': (torch.tensor([1]), torch.tensor([0, 1]))})['sequence'].tolist())\n"
        "assert not {'torch_tpu_embedding', 'torch_xla'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "t.pt2")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == MODULE(batch)["sequence"].tolist()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"means": ragged([[1]])}, "no feature is named 'means'; the embedding's are .'dense', "),
        (
            {"sequence": torch.tensor([1])},
            "feature 'sequence'.*takes Ragged ids .*got a dense tensor",
        ),
        ({"dense": torch.ones(2, 3).long()}, r"feature 'dense'.*shape \[B\] or .*got \[2, 3\]"),
        ({"mean": [[1, 2]]}, "feature 'mean'.*expected dense ids, Ragged ids, .*got list"),
        ({"sequence": (torch.tensor([1]), torch.tensor([0, 1]), torch.ones(1))}, "no weights"),
        ({"sum": (torch.tensor([1]), torch.tensor([0, 1]), torch.tensor([2]))}, "floating point"),
    ],
)
def test_a_wrong_input_names_the_feature_at_the_call_and_at_export(
    features: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        MODULE(features)
    with pytest.raises(ValueError, match=message):
        tte.export_serving(EMBEDDING, tmp_path / "t.pt2", features)
    assert [*tmp_path.iterdir()] == []


def test_exporting_without_path_example_or_tables_says_what_is_missing(tmp_path: Path) -> None:
    example = {"dense": torch.tensor([1])}
    for options in ({"path": tmp_path / "t.pt2"}, {"example": example}):
        with pytest.raises(ValueError, match="give both a path and an example, or neither"):
            tte.export_serving(EMBEDDING, **options)
    with pytest.raises(ValueError, match=r"the path must end in '\.pt2', got"):
        tte.export_serving(EMBEDDING, tmp_path / "t.bin", example)
    with pytest.raises(ValueError, match=r"training mode; call model\.eval\(\) first"):
        tte.export_program(Model().train(), tmp_path / "t.pt2", example)
    MODULE.eval()
    with pytest.raises(ValueError, match="holds no ServingModule"):
        tte.export_program(torch.nn.Linear(1, 1).eval(), tmp_path / "t.pt2", torch.ones(1))


def test_its_tables_are_embeddings_under_the_tables_names_and_do_not_train() -> None:
    assert isinstance(MODULE, ServingModule)
    assert set(MODULE.state_dict()) == {
        "tables.of_mean.weight", "tables.of_sum.weight", "tables.of_sqrtn.weight",
        "tables.table_0.weight",
    }  # fmt: skip
    assert not any(parameter.requires_grad for parameter in MODULE.parameters())


def test_a_table_may_be_named_like_a_method_of_modules(tmp_path: Path) -> None:
    names = ["items", "keys", "values", "type", "training", "to", "_parameters", "users"]
    features = {name: tte.FeatureConfig(tte.TableConfig(3, 2, name=name)) for name in names}
    embedding = tte.TPUEmbedding(features, 2, None, device="cpu")
    batch = {name: torch.tensor([2, 0]) for name in names}
    path = tmp_path / "t.pt2"
    module = tte.export_serving(embedding, path, batch)
    wanted = embedding(batch)
    for found in (module(batch), torch.export.load(path).module()(batch)):
        for name in names:
            torch.testing.assert_close(found[name], wanted[name])
    assert {"tables.items_.weight", "tables.users.weight"} <= set(module.state_dict())


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

"""The cases that are about configuration, checkpoints and export."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch
from remedies.cases import BAGS, IDS, Step, make, says, serve, train

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint


@says(r"feature_config holds no feature: give at least one FeatureConfig")
def no_feature(_: Path) -> tuple[Step, ...]:
    return lambda: tte.TPUEmbedding({}, 2, tte.SGD(), device="cpu"), lambda: make(device="cpu")


@says(r"unsupported optimizer class; give one of torch_tpu_embedding.optimizers")
def optimizer_class(_: Path) -> tuple[Step, ...]:
    return lambda: make(torch.optim.SGD), lambda: make(tte.optimizers.SGD())


@says(r"Multiple tables with name 'a' found .*: give each TableConfig its own name")
def table_names(_: Path) -> tuple[Step, ...]:
    def build(*names: str) -> Step:
        features = [tte.FeatureConfig(tte.TableConfig(2, 2, name=name)) for name in names]
        return lambda: tte.TPUEmbedding(features, 2, None, device="cpu")

    return build("a", "a"), build("a", "b")


@says(
    r"exclude each other; leave max_sequence_length 0 and give ragged ids with one row per sequence"
)
def sequence_and_shape(_: Path) -> tuple[Step, ...]:
    def follow() -> None:
        assert serve(BAGS, feature={"output_shape": [2, 3]})["f"].shape == (2, 3, 4)

    return lambda: make(feature={"max_sequence_length": 3, "output_shape": [2, 3]}), follow


@says(r"batch_size is missing, the call is TPUEmbedding\(feature_config, batch_size, optimizer\)")
def no_batch_size(_: Path) -> tuple[Step, ...]:
    features = {"f": tte.FeatureConfig(tte.TableConfig(9, 4))}
    return (
        lambda: tte.TPUEmbedding(features, tte.SGD()),
        lambda: train(tte.TPUEmbedding(features, 2, tte.SGD())),
        lambda: tte.TPUEmbeddingForServing(features, tte.SGD())({"f": IDS}),
    )


@says(r"pass callables for the names \['cosine'\]")
def described(_: Path) -> tuple[Step, ...]:
    def cosine() -> float:
        return 0.1

    config = {"f": tte.FeatureConfig(tte.TableConfig(9, 4, optimizer=tte.SGD(cosine), name="t"))}
    text = tte.config_to_dict(config)
    name = cosine.__qualname__
    text = {**text, "tables": [_renamed(table, name) for table in text["tables"]]}
    return (
        lambda: tte.config_from_dict(text),
        lambda: tte.config_from_dict(text, callables={"cosine": cosine}),
    )


def _renamed(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(each, name) for key, each in value.items()}
    return "cosine" if isinstance(value, str) and value.endswith(name) else value


@says(r"no tables of this configuration are initialised on .*; make the one that owns them first")
def second_object(_: Path) -> tuple[Step, ...]:
    features = {"f": tte.FeatureConfig(tte.TableConfig(7, 3, name="shared"))}

    def build(first: bool = True) -> Any:
        return tte.TPUEmbedding(features, 2, tte.SGD(), initialize_tpu_embedding=first)

    def owner_first() -> None:
        owner = build()
        train(build(False))
        assert torch.equal(owner.table_weight("shared"), build(False).table_weight("shared"))

    return lambda: build(False), owner_first


@says(
    r"embedding_tables: .* not single tensors; read them with state_dict\(\), or load that into a"
)
def tables_on_device(_: Path) -> tuple[Step, ...]:
    embedding = make()

    def load() -> None:
        serving = make(device="cpu")
        serving.load_state_dict(embedding.state_dict())
        assert len(serving.embedding_tables) == 1

    return (
        lambda: embedding.embedding_tables,
        lambda: embedding.state_dict()["t.weight"].shape,
        load,
    )


@says(r"build: give per_replica_input_shapes or per_replica_batch_size, not both")
def build_twice(_: Path) -> tuple[Step, ...]:
    embedding = make()
    return (
        lambda: embedding.build({"f": [2]}, 2),
        lambda: embedding.build({"f": [2]}),
        lambda: embedding.build(per_replica_batch_size=2),
    )


# -- checkpoints and export ----------------------------------------------------------------------------


@says(
    r"this step is complete already; save another step, or pass overwrite=True \(.*\), which replaces it"
)
def complete(run: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    checkpoint.save(embedding, run, 1)
    return (
        lambda: checkpoint.save(embedding, run, 1),
        lambda: checkpoint.save(embedding, run, 2),
        lambda: checkpoint.save(embedding, run, 1, overwrite=True),
    )


@says(r"since=1, but .*; save without since=, and base the next deltas on that step")
def unknown_base(run: Path) -> tuple[Step, ...]:
    embedding = make()

    def follow() -> None:
        checkpoint.save(embedding, run, 2)
        train(embedding)
        checkpoint.save(embedding, run, 3, since=2)
        checkpoint.load(make(), run)

    return lambda: checkpoint.save(embedding, run, 2, since=1), follow


@says(r"restore it from a copy, or load another step \(step=…, or fall_back=True\)")
def damaged(folder: Path) -> tuple[Step, ...]:
    embedding, run = make(device="cpu"), folder / "run"
    for step in (1, 2):
        checkpoint.save(embedding, run, step)
    shutil.copytree(run, folder / "copy")
    newest = next(each for each in run.iterdir() if each.name.endswith("2"))
    next(newest.glob("*.safetensors")).unlink()

    def from_copy() -> None:
        shutil.rmtree(run)
        shutil.copytree(folder / "copy", run)
        checkpoint.load(embedding, run)

    return (
        lambda: checkpoint.load(embedding, run),
        from_copy,
        lambda: checkpoint.load(embedding, run, step=1),
        lambda: checkpoint.load(embedding, run, fall_back=True),
    )


@says(r"expected torch.float32, got torch.float64; convert it before loading")
def state_of_doubles(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    state = {"t.weight": torch.ones(9, 4, dtype=torch.float64)}
    return (
        lambda: embedding.load_state_dict(state),
        lambda: embedding.load_state_dict({key: value.float() for key, value in state.items()}),
    )


@says(r"assign=True is not possible: table values are copied; leave it False")
def assigned(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    state = embedding.state_dict()
    return (
        lambda: embedding.load_state_dict(state, assign=True),
        lambda: embedding.load_state_dict(state, assign=False),
    )


@says(r"two tables would be named 'a_b'; rename one")
def exported_tables(_: Path) -> tuple[Step, ...]:
    def export(*names: str) -> Step:
        features = [tte.FeatureConfig(tte.TableConfig(2, 2, name=name)) for name in names]
        return lambda: tte.export_serving(tte.TPUEmbeddingForServing(features))

    return export("a.b", "a_b"), export("a.b", "c")


@says(r"two features are named 'x'; give each FeatureConfig its own name")
def exported_features(_: Path) -> tuple[Step, ...]:
    def export(*names: str) -> Step:
        table = tte.TableConfig(2, 2)
        features = [tte.FeatureConfig(table, name=name) for name in names]
        return lambda: tte.export_serving(tte.TPUEmbeddingForServing(features))

    return export("x", "x"), export("x", "y")


@says(
    r"the model (is in training mode; call model.eval\(\) first|holds no ServingModule; give it export_)"
)
def exported_model(folder: Path) -> tuple[Step, ...]:
    path, example = folder / "m.pt2", {"f": IDS}
    bare = torch.nn.Sequential(torch.nn.Identity())

    def with_tables() -> None:
        model = torch.nn.Sequential(tte.export_serving(make(device="cpu")))
        with contextlib.suppress(ValueError):
            tte.export_program(model.train(), path, example)
        tte.export_program(model.eval(), path, example)
        torch.export.load(path).module()({"f": IDS})

    return lambda: tte.export_program(bare, path, example), with_tables

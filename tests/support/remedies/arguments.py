"""The cases that are about arguments of configuration, and of the command line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from remedies.cases import IDS, Step, make, says, train

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.__main__ import main
from torch_tpu_embedding.checkpoint.format.run_directory import run_directory
from torch_tpu_embedding.checkpoint.inspection import reshard

VALUES = torch.arange(36.0).view(9, 4)


@says(r"are all named 'x'.*; give each FeatureConfig its own name, or none, to be named by its")
def equal_names(_: Path) -> tuple[Step, ...]:
    table = tte.TableConfig(9, 4, name="t")

    def build(*names: str | None) -> Step:
        features = [tte.FeatureConfig(table, name=name) for name in names]

        def strictly() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                tte.TPUEmbedding(features, 2, tte.SGD(0.1), device="cpu")

        return strictly

    return build("x", "x"), build("x", "y"), build(None, None)


@says(r"EmbeddingOptimizer: this TPUEmbedding is on the CPU.*or create it without device='cpu'")
def optimizer_on_the_cpu(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")

    def of_torch() -> None:
        optimizer = torch.optim.SGD(embedding.parameters(), 0.1)
        train(embedding, optimizer.step)

    def elsewhere() -> None:
        other = make()
        train(other, tte.EmbeddingOptimizer(other).step)

    return lambda: tte.EmbeddingOptimizer(embedding), of_torch, elsewhere


@says(r"got a Tensor; to start from values that are at hand give a function that returns them")
def values_as_initializer(_: Path) -> tuple[Step, ...]:
    def build(initializer: Any) -> Step:
        def check() -> None:
            embedding = make(table={"initializer": initializer})
            assert torch.equal(embedding.state_dict()["t.weight"], VALUES)

        return check

    return build(VALUES), build(lambda shape, dtype: VALUES)


@says(r"got torch.float64 .*; let the initializer end in .to\('cpu', torch.float32\)")
def double_initializer(_: Path) -> tuple[Step, ...]:
    def build(initializer: Any) -> Step:
        return lambda: make(table={"initializer": initializer}).state_dict()

    return (
        build(lambda shape, dtype: VALUES.double()),
        build(lambda shape, dtype: VALUES.double().to("cpu", torch.float32)),
    )


@says(r"got torch.float32 \[2, 4\] on cpu; make it of the shape that the initializer is given")
def small_initializer(_: Path) -> tuple[Step, ...]:
    def build(initializer: Any) -> Step:
        return lambda: make(table={"initializer": initializer}).state_dict()

    return (
        build(lambda shape, dtype: torch.ones(2, 4)),
        build(lambda shape, dtype: torch.ones(shape, dtype=dtype)),
    )


@says(
    r"missing \['b'\], unexpected \[\]; give each feature its ids, for samples without any as empty"
)
def missing_feature(_: Path) -> tuple[Step, ...]:
    table = tte.TableConfig(9, 4, name="t")
    config = {name: tte.FeatureConfig(table) for name in "ab"}
    embedding = tte.TPUEmbedding(config, 2, tte.SGD(0.1))
    empty = tte.Ragged.from_lists([[], []], dtype=torch.int64)
    return (
        lambda: embedding.enqueue({"a": IDS}),
        lambda: embedding.enqueue({"a": IDS, "b": IDS}),
        lambda: embedding.enqueue({"a": IDS, "b": empty}),
    )


@says(r"missing \['f'\], unexpected \[\]; give None for a feature without weights")
def missing_weights(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    return lambda: embedding({"f": IDS}, {}), lambda: embedding({"f": IDS}, {"f": None})


@says(r"reshard: 10 shards would be some 10 files, most of them empty.*; give at most 9 shards")
def more_shards_than_rows(folder: Path) -> tuple[Step, ...]:
    checkpoint.save(make(), folder / "run", 1)

    def write(count: int) -> Step:
        return lambda: reshard(folder / "run", folder / "out", count, None, None, lambda _: None)

    return write(10), write(9)


@says(r"give the directory above it, .*, and step=1 \(--step 1 on the command line\)")
def directory_of_a_step(folder: Path) -> tuple[Step, ...]:
    checkpoint.save(make(), folder / "run", 1)

    def command() -> None:
        assert main(["inspect", str(folder / "run"), "--step", "1"]) == 0

    return (
        lambda: run_directory(folder / "run" / "step-1"),
        lambda: checkpoint.load(make(), folder / "run", step=1),
        command,
    )


@says(r"no checkpoint to load \(no step is complete\); there is no such directory, check its name")
def no_directory(folder: Path) -> tuple[Step, ...]:
    checkpoint.save(make(), folder / "run", 1)
    return (
        lambda: checkpoint.load(make(), folder / "rum"),
        lambda: checkpoint.load(make(), folder / "run"),
    )

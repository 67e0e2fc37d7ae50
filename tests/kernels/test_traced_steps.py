"""Training with row kernels, traced and run on XLA's CPU device, where ATen does the kernels' work.

Against the scatter-add: to the last bit or the one before it, for XLA's CPU compiler makes one operation of
a product and the sum after it. Nothing is compiled after warm-up.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.helpers import tensors
from models.laws import OPTIMIZERS
from programs import kernels_on_cpu
from torch import Tensor

import torch_tpu_embedding as tte

STEPS = 6


def make(row_kernels: Any, name: str, **options: Any) -> tte.TPUEmbedding:
    """Tables of narrow records, whole rows and wide ones."""
    features = {
        str(dim): tte.FeatureConfig(
            tte.TableConfig(300, dim, name=f"d{dim}", combiner="sum"), name=str(dim)
        )
        for dim in (8, 64, 128)
    }
    return tte.TPUEmbedding(
        features, 16, OPTIMIZERS[name], layout="TPU", seed=3, row_kernels=row_kernels, **options
    )


def train(embedding: tte.TPUEmbedding, replayed: bool = False) -> list[int]:
    """Some steps; gives the programs compiled until each of them."""

    def step(batch: Any) -> Tensor:
        rows = embedding(batch)
        loss = torch.stack([each.square().mean() for each in rows.values()]).sum()
        loss.backward()
        embedding.apply_gradients()
        return loss.detach()

    run = tte.replay(step, embedding) if replayed else step
    generator = torch.Generator().manual_seed(1)
    counts = []
    for _ in range(STEPS):
        ids = torch.randint(0, 300, (3, 64), generator=generator)
        bags = [tte.Ragged.from_lengths(each, torch.full((16,), 4)) for each in ids]
        run(dict(zip(embedding.resolved.structure, bags, strict=True)))
        if not replayed:
            tte.runtime.sync()
        counts.append(tte.runtime.compile_count())
    embedding.flush()
    return counts


def assert_alike(one: tte.TPUEmbedding, other: tte.TPUEmbedding) -> None:
    found, wanted = tensors(one), tensors(other)
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["sgd", "adagrad", "adam", "rowwise", "adagrad-each", "adam-not-lazy"]
)
def test_steps_equal_those_of_the_scatter_and_compile_nothing_late(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_on_cpu.use(monkeypatch)
    by_kernel, by_scatter = make("on", name), make("off", name)
    counts = train(by_kernel)
    train(by_scatter)
    one_step_a_batch = name not in ("adagrad-each", "adam-not-lazy")
    if one_step_a_batch:
        assert counts[2:] == [counts[2]] * (STEPS - 2)
    assert ("row kernel" in by_kernel.describe()) == one_step_a_batch
    assert_alike(by_kernel, by_scatter)


def test_pipelined_steps_are_equal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels_on_cpu.use(monkeypatch)
    option = {"pipeline_execution_with_tensor_core": True}
    by_kernel, by_scatter = make("on", "adagrad", **option), make("off", "adagrad", **option)
    train(by_kernel)
    train(by_scatter)
    assert_alike(by_kernel, by_scatter)


def test_replayed_steps_are_equal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels_on_cpu.use(monkeypatch)
    by_kernel, by_scatter = make("on", "adagrad"), make("off", "adagrad")
    train(by_kernel, replayed=True)
    train(by_scatter)
    assert_alike(by_kernel, by_scatter)

"""Checkpoints of embeddings that train on the device: resumed as if never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import helpers
from safetensors.torch import load_file
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

OPTIMIZERS = {
    "sgd": tte.SGD(0.1),
    "adagrad": tte.Adagrad(0.1),
    "adam": tte.Adam(0.1, epsilon=1e-3),
    "rowwise": tte.optimizers.RowWiseAdagrad(0.1),
    "momentum": tte.optimizers.AdagradMomentum(0.1, momentum=0.9),
    "ftrl": tte.optimizers.FTRL(0.1),
}


class Run:
    """A training run whose data is a function of the step alone."""

    def __init__(self, optimizer: tte.optimizers.Optimizer, seed: int = 0, **options: Any) -> None:
        tables = [tte.TableConfig(37, 4, name="a"), tte.TableConfig(5, 6, name="b")]
        self.embedding = tte.TPUEmbedding(
            [tte.FeatureConfig(table) for table in tables], 8, optimizer, seed=seed, **options
        )

    def batch(self, step: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(step)
        return [torch.randint(0, size, (8,), generator=random) for size in (37, 5)]

    def train(self, steps: range) -> list[Tensor]:
        """The activations of each step, which show all that was learnt before it."""
        return [
            torch.cat(
                [each.flatten() for each in helpers.train_step(self.embedding, self.batch(s))]
            )
            for s in steps
        ]

    def tables(self) -> dict[str, Tensor]:
        return helpers.tensors(self.embedding)


def keys_of_ids(file: Path) -> list[str]:
    """The keys of a delta file that hold ids of table a."""
    return [key for key in load_file(file) if key.startswith("a.ids")]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(
    name: str, asynchronous: bool, tmp_path: Path
) -> None:
    run = Run(OPTIMIZERS[name])
    run.train(range(3))
    handle = checkpoint.save(run.embedding, tmp_path, 3, {"lr": 1.0}, asynchronous=asynchronous)
    wanted = run.train(range(3, 6))  # while the save goes on
    handle.wait()
    other = Run(OPTIMIZERS[name], seed=99, layout="TPU")
    loaded = checkpoint.load(other.embedding, tmp_path)
    assert (loaded.step, loaded.extra) == (3, {"lr": 1.0})
    for found, each in zip(other.train(range(3, 6)), wanted, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-6, atol=1e-7)


def test_the_same_layout_resumes_to_the_bit(tmp_path: Path) -> None:
    run = Run(OPTIMIZERS["adagrad"])
    run.train(range(2))
    checkpoint.save(run.embedding, tmp_path, 2)
    wanted = run.train(range(2, 4))
    other = Run(OPTIMIZERS["adagrad"], seed=99)
    checkpoint.load(other.embedding, tmp_path)
    assert all(map(torch.equal, other.train(range(2, 4)), wanted))
    assert same(other.tables(), run.tables())


def test_a_chain_of_deltas_is_the_table_it_describes_and_holds_touched_rows_only(
    tmp_path: Path,
) -> None:
    run = Run(OPTIMIZERS["adam"])
    checkpoint.save(run.embedding, tmp_path, 0)
    touched: set[int] = set()
    for step in (1, 2):
        run.train(range(step, step + 1))
        touched = set(run.batch(step)[0].tolist())
        checkpoint.save(run.embedding, tmp_path, step, since=step - 1)
        # looking up changes nothing, so it is in no delta
        run.embedding.enqueue(run.batch(77), training=False)
        run.embedding.dequeue()
        tte.runtime.sync()
    serving = Run(OPTIMIZERS["adam"], device="cpu")
    checkpoint.load(serving.embedding, tmp_path)
    assert same(serving.tables(), run.tables())
    files = (tmp_path / "step-2").glob("*.safetensors")
    written = torch.cat([load_file(file)[key] for file in files for key in keys_of_ids(file)])
    assert set(written.tolist()) == touched


def test_rows_loaded_count_as_changed(tmp_path: Path) -> None:
    run, other = Run(OPTIMIZERS["sgd"]), Run(OPTIMIZERS["sgd"], seed=5)
    checkpoint.save(run.embedding, tmp_path / "one", 0)
    checkpoint.save(other.embedding, tmp_path / "other", 0)
    run.embedding.load_state_dict(other.embedding.state_dict())
    checkpoint.save(run.embedding, tmp_path / "one", 1, since=0)
    serving = Run(OPTIMIZERS["sgd"], device="cpu")
    checkpoint.load(serving.embedding, tmp_path / "one")
    assert same(serving.tables(), other.tables())


def test_a_batch_between_dequeue_and_apply_sees_loaded_rows(tmp_path: Path) -> None:
    run = Run(OPTIMIZERS["adagrad"])
    checkpoint.save(run.embedding, tmp_path, 0)
    start = run.tables()
    run.train(range(2))
    run.embedding.enqueue(run.batch(9))
    activations = run.embedding.dequeue()
    checkpoint.load(run.embedding, tmp_path)
    run.embedding.apply_gradients([torch.zeros_like(each) for each in activations])
    tte.runtime.sync()
    assert same(run.tables(), start), (
        "a zero gradient leaves Adagrad's rows where the load put them"
    )

"""`runtime.torch_xla.held` over many steps of every kind: what is held does not grow, and the results stay right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from dense_cases import assert_equal, gradients, makers, parameters, take_steps

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime.torch_xla.held import held


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    held.now, held.before = [], []
    yield
    held.now, held.before = [], []


def known() -> int:
    """The number of tensors whose memory is held."""
    return sum(len(each) for each in [*held.now, *held.before])


def make(pipelined: bool = False) -> tte.TPUEmbedding:
    table = tte.TableConfig(40, 8, name="t")
    return tte.TPUEmbedding(
        {"a": tte.FeatureConfig(table)},
        4,
        tte.Adagrad(0.1),
        seed=0,
        pipeline_execution_with_tensor_core=pipelined,
    )


def look_up(embedding: tte.TPUEmbedding, step: int) -> None:
    embedding.enqueue({"a": torch.tensor([1, 2, step % 40, 1])})
    (activations,) = embedding.dequeue().values()
    (activations * activations).sum().backward()


def plain(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    embedding.apply_gradients()
    tte.runtime.sync()


def accumulated(embedding: tte.TPUEmbedding, step: int) -> None:
    look_up(embedding, step)
    embedding.accumulate_gradients()
    plain(embedding, step + 1)


@pytest.mark.parametrize(
    ("step", "pipelined"), [(plain, False), (plain, True), (accumulated, False)]
)
def test_what_is_held_stays_the_same_over_300_steps(
    step: Callable[[tte.TPUEmbedding, int], None], pipelined: bool
) -> None:
    embedding = make(pipelined)
    counts = []
    for number in range(300):
        step(embedding, number)
        counts.append(known())
    assert 0 < max(counts[10:]) <= max(counts[:10])


def test_a_dense_state_loaded_in_the_middle_is_trained_on_as_in_torch() -> None:
    of_torch, ours = makers("Adagrad", {"lr": 0.1})
    found = []
    for make_one, device in ((of_torch, torch.device("cpu")), (ours, tte.runtime.device())):
        weights, drawn = parameters(device), gradients()
        optimizer = make_one(weights)
        take_steps(optimizer, weights, drawn, 3)
        state = optimizer.state_dict()
        take_steps(optimizer, weights, drawn, 3)
        optimizer.load_state_dict(state)
        take_steps(optimizer, weights, drawn, 3)
        found.append([each.detach().cpu() for each in weights])
    assert_equal(*found, rtol=1e-6, atol=1e-6)
    assert known() > 0


def test_tables_loaded_in_the_middle_are_trained_on_as_if_nothing_were_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for holds in (True, False):
        if not holds:
            monkeypatch.setattr("torch_tpu_embedding.program.engine.hold", lambda tensors: None)
        embedding = make()
        for number in range(3):
            plain(embedding, number)
        state = {key: each.clone() for key, each in embedding.state_dict().items()}
        for number in range(3, 6):
            plain(embedding, number)
        embedding.load_state_dict(state)
        for number in range(6, 9):
            plain(embedding, number)
        found.append(dict(embedding.state_dict()))
    assert_equal(*found)

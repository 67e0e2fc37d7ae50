"""Compiled lookups and updates under torch_tpu give what single operators give, and compile once."""

from __future__ import annotations

import pytest
import torch
from models import helpers
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.program.compiling.engine import CompilingEngine

pytestmark = pytest.mark.torch_tpu
B = 16


def ragged(vocabulary: int, drawn: torch.Generator) -> tte.Ragged:
    lengths = torch.randint(0, 5, (B,), generator=drawn)
    return tte.Ragged.from_lengths(
        torch.randint(0, vocabulary, (int(lengths.sum()),), generator=drawn), lengths
    )


def trained(
    optimizer: tte.optimizers.Optimizer, layout: str, steps: int
) -> tuple[dict[str, Tensor], list[int]]:
    """The tables after some steps of ragged and one-hot features, and what was compiled until each."""
    rate = iter(0.1 / (1 + step) for step in range(1000))
    scheduled = tte.TableConfig(90, 4, name="b", optimizer=tte.Adagrad(lambda: next(rate)))
    large = tte.TableConfig(500, 16, name="a", optimizer=optimizer, combiner="mean")
    features = (
        tte.FeatureConfig(large),
        tte.FeatureConfig(large),
        tte.FeatureConfig(scheduled, max_sequence_length=3),
    )
    embedding = tte.TPUEmbedding(features, B, None, layout=layout, seed=1)
    drawn, counts = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        ids = torch.randint(0, 500, (B,), generator=drawn), ragged(500, drawn), ragged(90, drawn)
        embedding.enqueue(ids)
        sum((torch.tanh(each) ** 2).sum() for each in embedding.dequeue()).backward()
        embedding.apply_gradients()
        counts.append(tte.runtime.compile_count())
    compiles = isinstance(embedding._tables.engine, CompilingEngine)
    assert compiles == tte.runtime.compiles_functions()
    return helpers.tensors(embedding), counts


@pytest.mark.parametrize(
    ("optimizer", "layout"),
    [
        (tte.Adagrad(0.1), "TPU"),
        (tte.Adam(0.01), "CPU"),
        (tte.FTRL(0.1), "TPU"),
        (tte.SGD(0.1, use_gradient_accumulation=False), "CPU"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_compiled_steps_give_what_single_operators_give(
    monkeypatch: pytest.MonkeyPatch, optimizer: tte.optimizers.Optimizer, layout: str
) -> None:
    wanted, _ = trained(optimizer, layout, 4)
    monkeypatch.setenv("TPU_EMBEDDING_COMPILE", "1")
    found, _ = trained(optimizer, layout, 4)
    for key, value in wanted.items():
        torch.testing.assert_close(
            found[key], value, rtol=2e-6, atol=4e-7, msg=lambda m, k=key: k + m
        )


def test_nothing_is_compiled_in_200_ragged_steps_after_the_first_with_a_changing_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TPU_EMBEDDING_COMPILE", "1")
    _, counts = trained(tte.Adagrad(0.1), "TPU", 210)
    assert len({*counts[10:]}) == 1, counts

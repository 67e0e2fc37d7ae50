"""Adagrad of torch and FBGEMM goes on here as docs/checkpoints.md says: same rows after more steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_fakes import FakeEmbedding, table
from torch import Tensor, nn

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.optimizers import Adagrad, RowWiseAdagrad

LR, ROWS, DIM = 0.05, 6, 3


def gradients(steps: int) -> list[Tensor]:
    """Some with zeros, as padded or masked samples give."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(steps, ROWS, DIM, generator=generator)
    return [*(made * (torch.rand(made.shape, generator=generator) < 0.7))]


def go_on(
    rule: Adagrad | RowWiseAdagrad, weight: Tensor, accumulators: Tensor, more: list[Tensor]
) -> Tensor:
    slots = {"accumulators": accumulators}
    for gradient in more:
        change, added = rule.step(weight, slots, gradient, torch.full((ROWS, 1), LR))
        weight = weight + change
        slots = {"accumulators": slots["accumulators"] + added["accumulators"]}
    return weight


@pytest.mark.parametrize("seen", [0, 3])
def test_torchs_adagrad_goes_on(seen: int) -> None:
    module = nn.Embedding(ROWS, DIM)
    optimizer = torch.optim.Adagrad(module.parameters(), LR)
    steps = gradients(8)
    for number, gradient in enumerate(steps):
        if number == seen:
            weight = module.weight.detach().clone()
            sums = optimizer.state[module.weight]["sum"].clone()
        module.weight.grad = gradient.clone()
        optimizer.step()
    rule = Adagrad(LR, initial_accumulator_value=1e-20)
    found = go_on(rule, weight, sums.clamp(min=1e-20), steps[seen:])
    assert torch.allclose(found, module.weight, atol=1e-6)


def test_weights_and_slots_of_torch_are_taken_along_through_a_step(tmp_path: Path) -> None:
    module = nn.Embedding(ROWS, DIM)
    optimizer = torch.optim.Adagrad(module.parameters(), LR)
    module.weight.grad = gradients(1)[0]
    optimizer.step()
    rule = Adagrad(LR, initial_accumulator_value=1e-20)
    rows = {
        "weight": module.weight,
        "accumulators": optimizer.state[module.weight]["sum"].clamp(min=1e-20),
    }
    checkpoint.write_tables(tmp_path, 0, {"user": checkpoint.TableSource(rows, rule)})
    embedding = FakeEmbedding([table("user", ROWS, DIM, rule)])
    checkpoint.load(embedding, tmp_path)
    for name, wanted in rows.items():
        assert torch.equal(embedding.shard.held[0][name], wanted)
    assert (embedding.shard.held[0]["accumulators"] > 0).all()


@pytest.mark.parametrize("row_wise", [False, True])
def test_fbgemms_adagrad_goes_on(row_wise: bool) -> None:
    """Its formula is a ← a + g², or mean(g²) of the row; w ← w − lr·g/(√a + 1e-8)."""
    weight, accumulators = torch.rand(ROWS, DIM), torch.zeros(ROWS, 1 if row_wise else DIM)
    theirs, momentum1 = weight.clone(), accumulators.clone()
    steps = gradients(6)
    for gradient in steps:
        squared = gradient * gradient
        momentum1 += squared.mean(1, keepdim=True) if row_wise else squared
        theirs -= LR * gradient / (momentum1.sqrt() + 1e-8)
    if row_wise:
        rule = RowWiseAdagrad(LR, initial_accumulator_value=0, epsilon=1e-8)
    else:
        rule, accumulators = (
            Adagrad(LR, initial_accumulator_value=1e-16),
            accumulators.clamp(min=1e-16),
        )
    assert torch.allclose(go_on(rule, weight, accumulators, steps), theirs, atol=1e-6)

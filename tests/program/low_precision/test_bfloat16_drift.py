"""Late in training, with a small learning rate: rounding to nearest stands still, by chance it does not.

A regression: each row is fitted to a vector of its own. A first phase with a large rate brings it near;
then the targets move a little, and a long phase with a small rate shall follow them.
"""

from __future__ import annotations

import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.tables.start_values import start_values

ROWS, DIM = 256, 16
LARGE, FIRST = 0.5, 20
SMALL, LATER = 0.002, 1000
MOVED = 0.05


def drift(dtype: torch.dtype, rounding: str | None) -> tuple[float, float]:
    """The mean distance that weights move in the later phase, towards their targets, as a share of what is
    asked, and the root mean square of what is left at its end."""
    table = tte.TableConfig(ROWS, DIM, name="t", combiner="sum", dtype=dtype, rounding=rounding)
    resolved = resolve([tte.FeatureConfig(table)], tte.SGD(1.0))
    engine = Engine(resolved, torch.device("cpu"), "CPU")
    engine.store.fill(lambda t: start_values(resolved.tables[t], 0))
    targets = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    bags = [parse(resolved.features[0], resolved.tables[0], torch.arange(ROWS), None)]

    def train(steps: int, rate: float) -> None:
        for _ in range(steps):
            looked_up, (rows,) = engine.look_up(engine.send(bags))
            engine.update(looked_up, [rows - targets], [rate])

    train(FIRST, LARGE)
    before = engine.store.read()[0]["weight"]
    targets = targets + MOVED
    train(LATER, SMALL)
    after = engine.store.read()[0]["weight"]
    moved = float((after - before).mean()) / MOVED
    return moved, float((after - targets).square().mean().sqrt())


def test_the_mean_moves_as_in_float32_by_chance_and_hardly_to_nearest() -> None:
    exact, _ = drift(torch.float32, None)
    by_chance, left_by_chance = drift(torch.bfloat16, "stochastic")
    to_nearest, left_to_nearest = drift(torch.bfloat16, "nearest")
    assert exact > 0.8
    assert abs(by_chance - exact) < 0.02
    assert to_nearest < 0.2
    assert left_by_chance < left_to_nearest / 2

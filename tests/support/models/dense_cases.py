"""Models, gradients and optimizers by which torch.optim and `dense_optimizers` are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import torch_tpu_embedding as tte

SHAPES = ((7, 13), (7,), (3, 7), (5,))
"""Shapes of the parameters; all have different sizes."""
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.1, "maximize": True}),
    ("Adagrad", {"lr": 0.01}),
    (
        "Adagrad",
        {"lr": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.1, "maximize": True},
    ),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.0, 0.9), "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "eps": 1e-4}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.0}),
]
IDS = [f"{name}-{'-'.join(settings)}" for name, settings in CASES]
EXACT_ON_XLA = [
    (name, settings)
    for name, settings in CASES
    if name in ("SGD", "Adagrad") and "lr_decay" not in settings
]

Make = Callable[[Any], torch.optim.Optimizer]


def makers(name: str, settings: dict[str, Any]) -> tuple[Make, Make]:
    """torch.optim's optimizer and this package's of the same name, as functions of the parameters."""
    kinds = getattr(torch.optim, name), getattr(tte.dense_optimizers, name)
    of_torch, ours = (lambda params, kind=kind: kind(params, **settings) for kind in kinds)
    return of_torch, ours


def parameters(device: torch.device | str = "cpu") -> list[nn.Parameter]:
    """The same numbers at every call."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(*shape, generator=generator) for shape in SHAPES]
    return [nn.Parameter(each.to(device)) for each in found]


def gradients(seed: int = 1) -> Iterator[list[Tensor]]:
    """Gradients of these parameters, of very different sizes and with zeros, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn = [torch.randn(*shape, generator=generator) for shape in SHAPES]
        scales = torch.randn(len(SHAPES), generator=generator).exp()
        yield [each * scale * (each.abs() > 0.2) for each, scale in zip(drawn, scales, strict=True)]


def take_steps(
    optimizer: torch.optim.Optimizer,
    held: list[nn.Parameter],
    drawn: Iterator[list[Tensor]],
    steps: int,
    without: Callable[[int], set[int]] = lambda step: set(),
    between: Callable[[int], object] = lambda step: None,
) -> None:
    """Take steps with drawn gradients, as a training loop does.

    Args:
        without: gives the positions of the parameters that have no gradient at a step.
        between: is called after each step.
    """
    device = held[0].device
    for step in range(steps):
        missing = without(step)
        for at, (each, gradient) in enumerate(zip(held, next(drawn), strict=True)):
            each.grad = None if at in missing else gradient.to(device)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        between(step)
        if device.type != "cpu":
            tte.runtime.sync()


def assert_equal(one: object, other: object, **tolerance: float) -> None:
    """Fail unless two structures hold the same tensors, or close ones, and equal values."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        exact = {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(one.cpu(), other.cpu(), **(tolerance or exact))
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key], **tolerance)
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other)
        for mine, yours in zip(one, other, strict=True):
            assert_equal(mine, yours, **tolerance)
    else:
        assert one == other

"""The norm of a step's whole gradient, and the factor that clips it: traced into the step's program.

A model with dense tables has a gradient of one row for each id, the sum over all lookups of the id in
the batch. `torch.nn.utils.clip_grad_norm_` over activations has one for each lookup instead, and only those
of this process. Letters: G devices of all processes, U unique rows, D dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from ..distributed.exchange import Exchange

_EPSILON = 1e-6
"""Added to the norm before it divides, as in torch."""
_SAME = 1e-3
"""Relative difference of dense norms that is still one of rounding."""


def check_arguments(
    max_norm: object, norm_type: object, dense_parameters: object, activations: Iterable[Tensor]
) -> tuple[float, float, list[Tensor]]:
    """The arguments of `clip_grad_norm_`: two numbers, and each dense parameter that has a gradient, once.

    Args:
        activations: those of the step, which must not be among the dense parameters.

    Raises:
        TypeError, ValueError: naming the argument, its value, and what is allowed.
    """
    limit = _number("max_norm", max_norm)
    if limit < 0:
        raise ValueError(f"clip_grad_norm_: max_norm must not be negative, got {max_norm!r}")
    order = _number("norm_type", norm_type)
    if order <= 0:
        raise ValueError(
            f"clip_grad_norm_: norm_type must be above 0, 2.0 for the usual norm or inf for the largest "
            f"number, got {norm_type!r}"
        )
    if isinstance(dense_parameters, Tensor):
        dense_parameters = [dense_parameters]
    if not isinstance(dense_parameters, Iterable):
        raise TypeError(
            "clip_grad_norm_: dense_parameters must be tensors, as model.parameters() gives them, got "
            f"{type(dense_parameters).__name__}"
        )
    own = {id(each) for each in activations}
    found: dict[int, Tensor] = {}
    for at, each in enumerate(dense_parameters):
        if not isinstance(each, Tensor):
            raise TypeError(
                f"clip_grad_norm_: dense_parameters[{at}] is a {type(each).__name__}, no tensor; pass "
                "model.parameters()"
            )
        if id(each) in own:
            raise ValueError(
                f"clip_grad_norm_: dense_parameters[{at}] is an activation, whose gradient is counted "
                "in the rows of its table already; pass the parameters of the dense model alone"
            )
        if each.grad is not None:
            found[id(each)] = each
    return limit, order, [*found.values()]


def check_device(dense: Sequence[Tensor], device: torch.device) -> None:
    """Raise ValueError if the gradient of a dense parameter is elsewhere."""
    for each in dense:
        assert each.grad is not None
        if each.grad.device != device:
            raise ValueError(
                f"clip_grad_norm_: a dense parameter of shape {[*each.shape]} has its gradient on "
                f"{each.grad.device}, the tables are on {device}; move the dense model there with "
                ".to(embedding.device)"
            )


def total_norm(
    exchange: Exchange,
    rows: Mapping[int, Tensor],
    dense: Sequence[Tensor],
    order: float,
    device: torch.device,
) -> Tensor:
    """The norm `[1]` of all rows of all devices and of the dense gradients, each of which counts once.

    Args:
        rows: gradients of unique records, what `Engine.sum_gradients` gave.
        dense: gradients that are the same on every process.

    Raises:
        ValueError: they are not, and the processes meet on the host, where it shows.
    """
    own = _amount([exchange.enter(each) for each in rows.values()], order, device)
    of_dense = _amount(dense, order, device)
    of_each = exchange.gather(own)
    if exchange.group.size > 1 and of_each.device.type == "cpu":
        _check_same(exchange, of_dense, order)
    of_each = of_each.to(device)
    amount = _together(torch.cat([_together(of_each, order)[None], of_dense[None]]), order)
    return amount if math.isinf(order) else amount.pow(1 / order)


def clip_factor(norm: Tensor, max_norm: Tensor) -> Tensor:
    """The number `[1]` that gradients are multiplied by, as in `torch.nn.utils.clip_grad_norm_`."""
    # No clamp: torch_xla's makes the most negative number of nan.
    return torch.minimum(max_norm / (norm + _EPSILON), torch.ones_like(norm))


def _amount(gradients: Sequence[Tensor], order: float, device: torch.device) -> Tensor:
    """Σ |g|^order of all numbers, or the largest |g| for an infinite order, `[1]` float32."""
    parts = [_of_one(each.float(), order) for each in gradients if each.numel()]
    if not parts:
        return torch.zeros(1, dtype=torch.float32, device=device)
    return _together(torch.stack(parts), order)[None]


def _of_one(gradient: Tensor, order: float) -> Tensor:
    if math.isinf(order):
        return gradient.abs().max()
    if order == 2:
        return gradient.square().sum()
    return gradient.abs().pow(order).sum()


def _together(amounts: Tensor, order: float) -> Tensor:
    return amounts.amax(0) if math.isinf(order) else amounts.sum(0)


def _check_same(exchange: Exchange, of_dense: Tensor, order: float) -> None:
    """Raise ValueError on every process if their dense gradients differ."""
    found = exchange.group.gather(of_dense.cpu())[:, 0]
    if not torch.allclose(found, found[0], rtol=_SAME, atol=0.0, equal_nan=True):
        powers = found if math.isinf(order) else found.pow(1 / order)
        raise ValueError(
            f"clip_grad_norm_: the gradients of dense_parameters have norms {powers.tolist()} on the "
            "processes, and must be the same; call distributed.sum_gradients(parameters) first"
        )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ValueError(f"clip_grad_norm_: {name} must be a number, got {value!r}")
    return float(value)

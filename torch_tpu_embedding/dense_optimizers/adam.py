"""Adam, and Adam with decoupled weight decay.

The corrections 1 - beta^n of the first steps are computed from a count on the device, in float32, as
-expm1(n · log beta): the usual form has lost three digits at the first step of beta2 = 0.999.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .arithmetic import divided, increased, plus, plus_product, plus_ratio, times, towards
from .base import DenseOptimizer, new_count
from .sent_numbers import Number


class Adam(DenseOptimizer):
    """`torch.optim.Adam` for dense parameters, traced fast.

    Its steps are equal to those of torch.optim to the bit on the CPU. On XLA devices the corrections of
    the first steps are computed in float32, exact to 1e-6 of them, and so is the change of a step.

    Args:
        params: parameters, or groups of them, as torch.optim takes them.
        lr: learning rate, at least 0.
        betas: decay of the mean gradient and of the mean square, at least 0 and below 1.
        eps: added to the root of the mean square before it divides, at least 0.
        weight_decay: factor of the weights that are added to their gradient, at least 0.
        amsgrad: True to divide by the largest mean square so far.
        maximize: True to climb.
        decoupled_weight_decay: True to have the weights decay by themselves, as AdamW does.

    Raises:
        TypeError: another argument of torch.optim.Adam is given.
        ValueError: a number is wrong.
    """

    _sent_names = frozenset({"lr", "betas", "eps", "weight_decay"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **others: object,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, others)

    def _numbers(self, group: dict[str, Any]) -> list[float]:
        rate = self._number(group, "lr", group["lr"])
        first, second = (
            self._number(group, f"betas[{at}]", group["betas"][at], below=1.0) for at in range(2)
        )
        eps = self._number(group, "eps", group["eps"])
        decay = self._number(group, "weight_decay", group["weight_decay"])
        if group["decoupled_weight_decay"]:
            decay = 1 - rate * decay
        return [-rate, 1 - first, second, 1 - second, eps, decay, *map(_log, (first, second))]

    def _structure(self, group: dict[str, Any]) -> tuple[object, ...]:
        return (
            bool(group["weight_decay"] != 0),
            group["decoupled_weight_decay"],
            group["amsgrad"],
            group["maximize"],
        )

    def _step_group(
        self, group: dict[str, Any], parameters: list[Tensor], numbers: Sequence[Number]
    ) -> None:
        self._begin(group, parameters)
        minus_rate, share, beta, share_of_square, eps, decay, *logs = numbers
        has_decay, decoupled, amsgrad, _ = self._structure(group)
        for count, members in self._count_step(parameters):
            if isinstance(minus_rate, Tensor):
                first, second = (-torch.expm1(count * log) for log in logs)
                root: Number = second.sqrt()
            else:
                first, second = (1 - each ** float(count) for each in group["betas"])
                root = second**0.5
            factor = minus_rate / first
            for each in members:
                state, gradient, weights = self.state[each], self._gradient(group, each), each
                if has_decay and decoupled:
                    weights = times(each, decay)
                elif has_decay:
                    gradient = plus(gradient, each, decay)
                mean = towards(state["exp_avg"], gradient, share)
                square = times(state["exp_avg_sq"], beta)
                square = plus_product(square, gradient, gradient, share_of_square)
                state["exp_avg"].copy_(mean)
                state["exp_avg_sq"].copy_(square)
                if amsgrad:
                    square = torch.maximum(state["max_exp_avg_sq"], square)
                    state["max_exp_avg_sq"].copy_(square)
                divisor = increased(divided(square.sqrt(), root), eps)
                each.copy_(plus_ratio(weights, mean, divisor, factor))

    def _begin(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Make the state of those parameters that have none yet."""
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
        count = None
        for each in parameters:
            state = self.state[each]
            if not state:
                count = new_count(each.device) if count is None else count
                state["step"] = count
            for name in names:
                if name not in state:
                    state[name] = torch.zeros_like(each)


class AdamW(Adam):
    """`torch.optim.AdamW` for dense parameters, traced fast: Adam whose weights decay by themselves.

    Its steps are equal to those of torch.optim as `Adam`'s are.

    Args:
        params: parameters, or groups of them, as torch.optim takes them.
        lr: learning rate, at least 0.
        betas: decay of the mean gradient and of the mean square, at least 0 and below 1.
        eps: added to the root of the mean square before it divides, at least 0.
        weight_decay: a step makes the weights smaller by lr · weight_decay of them; at least 0.
        amsgrad: True to divide by the largest mean square so far.
        maximize: True to climb.

    Raises:
        TypeError: another argument of torch.optim.AdamW is given.
        ValueError: a number is wrong.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **others: object,
    ) -> None:
        if "decoupled_weight_decay" in others:
            raise TypeError(
                f"{self._name}: 'decoupled_weight_decay' is not an argument (it is always so); leave it out"
            )
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
            **others,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # also in a state of plain Adam


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf

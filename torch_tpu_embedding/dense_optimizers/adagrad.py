"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .arithmetic import increased, plus, plus_product, plus_ratio
from .base import DenseOptimizer, new_count
from .sent_numbers import Number


class Adagrad(DenseOptimizer):
    """`torch.optim.Adagrad` for dense parameters, traced fast.

    Its steps are equal to those of torch.optim to the bit: on the CPU, and on XLA devices without
    `lr_decay`. With it the learning rate is divided in float32 there, which is exact to 3e-7 of it.

    Args:
        params: parameters, or groups of them, as torch.optim takes them.
        lr: learning rate, at least 0.
        lr_decay: the n-th step is taken with lr / (1 + (n - 1) · lr_decay); at least 0.
        weight_decay: factor of the weights that are added to their gradient, at least 0.
        initial_accumulator_value: start of the sum of squares, at least 0.
        eps: added to the root of that sum before it divides, at least 0.
        maximize: True to climb.

    Raises:
        TypeError: another argument of torch.optim.Adagrad is given.
        ValueError: a number is wrong.
    """

    _sent_names = frozenset({"lr", "lr_decay", "weight_decay", "eps"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **others: object,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
        }
        super().__init__(params, defaults, others)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with the defaults for what it does not say.

        Args:
            param_group: its parameters under "params", and values of the constructor's arguments by name.

        Raises:
            TypeError, ValueError: one of its values is wrong; it has not been added.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        counts: dict[torch.device, Tensor] = {}
        for each in group["params"]:
            if each.device not in counts:
                counts[each.device] = new_count(each.device)
            start = torch.full_like(each, float(group["initial_accumulator_value"]))
            self.state[each] = {"step": counts[each.device], "sum": start}

    def _numbers(self, group: dict[str, Any]) -> list[float]:
        start = group["initial_accumulator_value"]
        self._number(group, "initial_accumulator_value", start)
        names = ("lr", "lr_decay", "weight_decay", "eps")
        rate, rate_decay, decay, eps = (self._number(group, each, group[each]) for each in names)
        return [-rate, rate_decay, decay, eps]

    def _structure(self, group: dict[str, Any]) -> tuple[object, ...]:
        return bool(group["lr_decay"] != 0), bool(group["weight_decay"] != 0), group["maximize"]

    def _step_group(
        self, group: dict[str, Any], parameters: list[Tensor], numbers: Sequence[Number]
    ) -> None:
        minus_rate, rate_decay, decay, eps = numbers
        has_rate_decay, has_decay, _ = self._structure(group)
        for count, members in self._count_step(parameters):
            factor = minus_rate
            if has_rate_decay:
                steps = count if isinstance(minus_rate, Tensor) else float(count)
                factor = minus_rate / (1 + (steps - 1) * rate_decay)
            for each in members:
                gradient = self._gradient(group, each)
                if has_decay:
                    gradient = plus(gradient, each, decay)
                total = plus_product(self.state[each]["sum"], gradient, gradient, 1.0)
                self.state[each]["sum"].copy_(total)
                each.copy_(plus_ratio(each, gradient, increased(total.sqrt(), eps), factor))

"""Stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from .arithmetic import plus, times
from .base import DenseOptimizer
from .sent_numbers import Number


class SGD(DenseOptimizer):
    """`torch.optim.SGD` for dense parameters, traced fast.

    Its steps are equal to those of torch.optim to the bit, on the CPU and on XLA devices.

    Args:
        params: parameters, or groups of them, as torch.optim takes them.
        lr: learning rate, at least 0.
        momentum: factor of the step before, at least 0.
        dampening: share of the gradient that the momentum leaves out.
        weight_decay: factor of the weights that are added to their gradient, at least 0.
        nesterov: True to look ahead by one step of the momentum.
        maximize: True to climb.

    Raises:
        TypeError: another argument of torch.optim.SGD is given.
        ValueError: a number is wrong.
    """

    _sent_names = frozenset({"lr", "momentum", "dampening", "weight_decay"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **others: object,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults, others)

    def _numbers(self, group: dict[str, Any]) -> list[float]:
        rate = self._number(group, "lr", group["lr"])
        momentum = self._number(group, "momentum", group["momentum"])
        dampening = self._number(group, "dampening", group["dampening"], low=-math.inf)
        decay = self._number(group, "weight_decay", group["weight_decay"])
        if group["nesterov"] and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"{self._name}: nesterov=True needs a momentum above 0 and a dampening of 0, got momentum "
                f"{momentum:g} and dampening {dampening:g}"
            )
        return [-rate, momentum, 1 - dampening, decay]

    def _structure(self, group: dict[str, Any]) -> tuple[object, ...]:
        return (
            bool(group["momentum"] != 0),
            bool(group["weight_decay"] != 0),
            group["nesterov"],
            group["maximize"],
        )

    def _step_group(
        self, group: dict[str, Any], parameters: list[Tensor], numbers: Sequence[Number]
    ) -> None:
        minus_rate, momentum, share, decay = numbers
        has_momentum, has_decay, nesterov, _ = self._structure(group)
        for each in parameters:
            gradient = self._gradient(group, each)
            if has_decay:
                gradient = plus(gradient, each, decay)
            if has_momentum:
                state = self.state[each]
                before = state.get("momentum_buffer")
                if before is None:
                    # not a clone, which may share its memory with the gradient
                    now = state["momentum_buffer"] = gradient * 1.0
                else:
                    now = plus(times(before, momentum), gradient, share)
                    before.copy_(now)
                gradient = plus(gradient, now, momentum) if nesterov else now
            each.copy_(plus(each, gradient, minus_rate))

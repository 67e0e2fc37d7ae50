"""SGD. Letters: U unique rows, D dim."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Optimizer, Slots


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: w ← w − lr·g.

    >>> import torch
    >>> sgd = SGD(0.1)
    >>> sgd.step(torch.ones(1, 2), {}, torch.tensor([[1.0, -2.0]]), torch.tensor([0.1]))
    (tensor([[-0.1000,  0.2000]]), {})
    """

    @property
    def steps_per_occurrence(self) -> bool:
        # Without bounds or decay the updates of a row add up to that of the sum.
        bounded = self.clip_weight_min is not None or self.clip_weight_max is not None
        return not self.use_gradient_accumulation and (bounded or bool(self.weight_decay_factor))

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        return g * -lr, {}

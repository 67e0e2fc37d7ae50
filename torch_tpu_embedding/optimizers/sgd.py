"""SGD. Letters: U unique rows, D dim."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Optimizer, Slots


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: w ← w − lr·g.

    Args:
        learning_rate: A number, or a callable without arguments that is read at each
            `apply_gradients` (tables that hold the same callable share one call).
        use_gradient_accumulation: True: gradients of one id are summed over the whole step, then
            the row gets one update. False: an update per occurrence of the id, in batch order,
            which takes several device programs a step.
        clip_weight_min: lower bound of the weights of updated rows.
        clip_weight_max: upper bound of the weights of updated rows.
        weight_decay_factor: updated rows lose this share of their weight before the step: w ← w −
            factor·w.
        multiply_weight_decay_factor_by_learning_rate: True: the share lost is factor·learning_rate.
        clipvalue: bounds of each element of the summed gradient: c for (−c, c), or (min, max) with
            None for open.
        low_dimensional_packing_status: accepted for TF's sake; narrow rows are always packed here,
            and safely for every optimizer.

    Examples:
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

"""FTRL. Letters: U unique rows, D dim."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .base import LearningRate, Slots, SlottedOptimizer, require_number


@dataclass(frozen=True)
class FTRL(SlottedOptimizer):
    """Follow the regularised leader, per coordinate, with p = −learning_rate_power:

    a' = a + g²; δ = a'ᵖ − aᵖ; L ← L + g − δ·w/lr;
    w ← (clip(L, −l1, l1) − L) / ((a'ᵖ + beta)/lr + 2·l2).

    With `multiply_linear_by_learning_rate`: L ← L + lr·g − δ·w;
    w ← (clip(L, −lr·l1, lr·l1) − L) / (a'ᵖ + beta + 2·lr·l2).

    The weight is a function of the slots: a row whose start value is not 0 moves at its first update even
    without a gradient. l2 counts twice what it does in the paper, as in TF.

    Source: McMahan et al. 2013, "Ad click prediction: a view from the trenches", in TPUEmbedding's form.

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
        slot_variable_creation_fn: `fn(table, slot_names, slot_initializers)` gives the start values
            of the slots as a dict name → tensor `[V, D]`; `table` is the initial weight, each
            initializer a callable (shape, dtype).
        learning_rate_power: the power of the accumulator by which the rate falls; at most 0.
        l1_regularization_strength: l1: weights with |L| below it become exactly 0.
        l2_regularization_strength: l2: pulls weights to 0.
        beta: added to a'ᵖ, as the paper's β.
        initial_accumulator_value: the start value of accumulators; above 0, or 0 with
            `allow_zero_accumulator`.
        multiply_linear_by_learning_rate: keep L·lr in the slot instead of L.
        allow_zero_accumulator: take an accumulator of 0; where the divisor is 0 too, the weight is
            0.

    Examples:
        >>> ftrl = FTRL(0.1, initial_accumulator_value=1.0)
        >>> rows = {"accumulators": torch.ones(1, 1), "linears": torch.zeros(1, 1)}
        >>> ftrl.step(torch.zeros(1, 1), rows, torch.full((1, 1), 3.0), torch.tensor([0.1]))[0]
        tensor([[-0.0949]])
    """

    learning_rate: LearningRate = 0.001
    learning_rate_power: float = field(default=-0.5, kw_only=True)
    l1_regularization_strength: float = field(default=0.0, kw_only=True)
    l2_regularization_strength: float = field(default=0.0, kw_only=True)
    beta: float = field(default=0.0, kw_only=True)
    initial_accumulator_value: float = field(default=0.1, kw_only=True)
    multiply_linear_by_learning_rate: bool = field(default=False, kw_only=True)
    allow_zero_accumulator: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "learning_rate_power",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "beta",
            "initial_accumulator_value",
        ):
            value = getattr(self, name)
            require_number("FTRL", name, value)
            if name == "learning_rate_power":
                if value > 0:
                    raise ValueError(f"FTRL: learning_rate_power must be at most 0, got {value}")
            elif value < 0:
                raise ValueError(f"FTRL: {name} must not be negative, got {value}")
        if self.initial_accumulator_value == 0 and not self.allow_zero_accumulator:
            raise ValueError(
                "FTRL: initial_accumulator_value must be above 0, got 0; set "
                "allow_zero_accumulator=True to start from 0"
            )

    @property
    def divides_by_rate(self) -> bool:
        return not self.multiply_linear_by_learning_rate

    def slot_initial_values(self) -> dict[str, float]:
        return {"accumulators": self.initial_accumulator_value, "linears": 0.0}

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        l1, l2 = self.l1_regularization_strength, self.l2_regularization_strength
        squared = g * g
        root = self._power(slots["accumulators"] + squared)
        fall = root - self._power(slots["accumulators"])
        if self.multiply_linear_by_learning_rate:
            d_linear = lr * g - fall * w
            bound = lr * l1
            divisor = root + self.beta + 2.0 * l2 * lr
        else:
            d_linear = g - fall * w / lr
            bound = torch.full_like(lr, l1)
            divisor = (root + self.beta) / lr + 2.0 * l2
        linears = slots["linears"] + d_linear
        # without l1 the clipped part is 0: no need to trace it
        clipped = torch.minimum(torch.maximum(linears, -bound), bound) if l1 else 0.0
        new = (clipped - linears) / divisor
        if self.allow_zero_accumulator:
            new = torch.where(divisor == 0, 0.0, new)
        return new - w, {"accumulators": squared, "linears": d_linear}

    def _power(self, accumulators: Tensor) -> Tensor:
        if self.learning_rate_power == -0.5:
            return torch.sqrt(accumulators)
        return torch.pow(accumulators, -self.learning_rate_power)

"""The Adagrad family. Letters: U unique rows, D dim."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .base import LearningRate, Slots, SlottedOptimizer, require_number


@dataclass(frozen=True)
class Adagrad(SlottedOptimizer):
    """Adagrad without an epsilon: a ← a + g²; w ← w − lr·g/√a.

    Source: Duchi et al. 2011, in the form of TPUEmbedding (the accumulator starts above zero instead).

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
        initial_accumulator_value: the start value of accumulators; must be above 0. TF's 0.1 drowns
            the small row gradients of a mean loss, so that rows hardly move: give 1e-7 there.

    Examples:
        >>> adagrad = Adagrad(0.1)
        >>> rows = {"accumulators": torch.full((1, 1), 0.1)}
        >>> adagrad.step(torch.ones(1, 1), rows, torch.full((1, 1), 3.0), torch.tensor([0.1]))
        (tensor([[-0.0994]]), {'accumulators': tensor([[9.]])})
    """

    learning_rate: LearningRate = 0.001
    initial_accumulator_value: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("Adagrad", "initial_accumulator_value", self.initial_accumulator_value)
        if self.initial_accumulator_value <= 0:
            raise ValueError(
                "Adagrad: initial_accumulator_value must be above 0, got "
                f"{self.initial_accumulator_value}"
            )

    def slot_initial_values(self) -> dict[str, float]:
        return {"accumulators": self.initial_accumulator_value}

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        squared = g * g
        accumulators = slots["accumulators"] + squared
        return g * torch.rsqrt(accumulators) * -lr, {"accumulators": squared}


@dataclass(frozen=True)
class RowWiseAdagrad(SlottedOptimizer):
    """Adagrad with one accumulator a row: a ← a + mean(g²) over D; w ← w − lr·g/(√a + ε).

    The slot is `[V, 1]` instead of `[V, D]`: at D = 64 half the memory of Adagrad.
    FBGEMM's EXACT_ROWWISE_ADAGRAD is this with `initial_accumulator_value=0` and `epsilon=1e-8`;
    the defaults here are those of Adagrad, which starts above zero and has no ε. TF has no such optimizer.

    Source: Gupta et al. 2014, "Training highly multiclass classifiers", section 3.2.

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
        initial_accumulator_value: the start value of accumulators; above 0, or 0 with an epsilon.
            TF's 0.1 drowns the small row gradients of a mean loss, so that rows hardly move.
        epsilon: added to the root.

    Examples:
        >>> rowwise = RowWiseAdagrad(0.1)
        >>> rows = {"accumulators": torch.full((1, 1), 0.1)}
        >>> rowwise.step(torch.ones(1, 2), rows, torch.tensor([[3.0, 1.0]]), torch.tensor([0.1]))
        (tensor([[-0.1328, -0.0443]]), {'accumulators': tensor([[5.]])})
    """

    learning_rate: LearningRate = 0.001
    initial_accumulator_value: float = field(default=0.1, kw_only=True)
    epsilon: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("initial_accumulator_value", "epsilon"):
            require_number("RowWiseAdagrad", name, getattr(self, name))
            if getattr(self, name) < 0:
                raise ValueError(
                    f"RowWiseAdagrad: {name} must not be negative, got {getattr(self, name)}"
                )
        if self.initial_accumulator_value == 0 and self.epsilon == 0:
            raise ValueError(
                "RowWiseAdagrad: initial_accumulator_value and epsilon are both 0, so a row without "
                "gradient would divide by 0; give one of them"
            )

    def slot_initial_values(self) -> dict[str, float]:
        return {"accumulators": self.initial_accumulator_value}

    def slot_width(self, name: str, dim: int) -> int:
        return 1

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        squared = (g * g).mean(-1, keepdim=True)
        root = torch.sqrt(slots["accumulators"] + squared)
        return g / (root + self.epsilon) * -lr, {"accumulators": squared}


@dataclass(frozen=True)
class AdagradMomentum(SlottedOptimizer):
    """Adagrad with momentum on the scaled gradient.

    a ← a + g² if β₂ = 1, else β₂a + (1−β₂)g²; s = g·(a + ε)^(−1/exponent); m ← momentum·m + s;
    w ← w − lr·m, with `use_nesterov` w ← w − lr·(momentum·m + s).

    Source: TPUEmbedding's AdagradMomentum (accumulators start at 0).

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
        momentum: share of the momentum that stays, in [0, 1).
        use_nesterov: True if the step looks ahead by one momentum.
        exponent: the root taken of the accumulator: 2 is the square root; above 0.
        beta2: decay of the accumulator, in (0, 1]; 1 sums up as Adagrad does.
        epsilon: added to the accumulator before the root; above 0.

    Examples:
        >>> momentum = AdagradMomentum(0.1, momentum=0.9)
        >>> zero = {"accumulators": torch.zeros(1, 1), "momenta": torch.zeros(1, 1)}
        >>> momentum.step(torch.ones(1, 1), zero, torch.full((1, 1), 4.0), torch.tensor([0.1]))[0]
        tensor([[-0.1000]])
    """

    learning_rate: LearningRate = 0.001
    momentum: float = field(default=0.0, kw_only=True)
    use_nesterov: bool = field(default=False, kw_only=True)
    exponent: float = field(default=2.0, kw_only=True)
    beta2: float = field(default=1.0, kw_only=True)
    epsilon: float = field(default=1e-10, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("momentum", "exponent", "beta2", "epsilon"):
            require_number("AdagradMomentum", name, getattr(self, name))
        for name in ("exponent", "epsilon"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"AdagradMomentum: {name} must be above 0, got {getattr(self, name)}"
                )
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"AdagradMomentum: momentum must be in [0, 1), got {self.momentum}")
        if not 0.0 < self.beta2 <= 1.0:
            raise ValueError(f"AdagradMomentum: beta2 must be in (0, 1], got {self.beta2}")

    def slot_initial_values(self) -> dict[str, float]:
        return {"accumulators": 0.0, "momenta": 0.0}

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        held, momenta = slots["accumulators"], slots["momenta"]
        squared = g * g
        d_a = squared if self.beta2 == 1.0 else (squared - held) * (1.0 - self.beta2)
        accumulators = held + d_a + self.epsilon
        if self.exponent == 2.0:
            scaled = g * torch.rsqrt(accumulators)
        else:
            scaled = g * accumulators ** (-1.0 / self.exponent)
        d_m = momenta * (self.momentum - 1.0) + scaled
        m = momenta + d_m
        ahead = m * self.momentum + scaled if self.use_nesterov else m
        return ahead * -lr, {"accumulators": d_a, "momenta": d_m}

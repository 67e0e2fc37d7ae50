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

    >>> adagrad = Adagrad(0.1)
    >>> rows = {"accumulators": torch.full((1, 1), 0.1)}
    >>> adagrad.step(torch.ones(1, 1), rows, torch.full((1, 1), 3.0), torch.tensor([0.1]))
    (tensor([[-0.0994]]), {'accumulators': tensor([[9.]])})
    """

    learning_rate: LearningRate = 0.001
    initial_accumulator_value: float = field(default=0.1, kw_only=True)
    """The start value of accumulators; must be above 0."""

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

    >>> rowwise = RowWiseAdagrad(0.1)
    >>> rows = {"accumulators": torch.full((1, 1), 0.1)}
    >>> rowwise.step(torch.ones(1, 2), rows, torch.tensor([[3.0, 1.0]]), torch.tensor([0.1]))
    (tensor([[-0.1328, -0.0443]]), {'accumulators': tensor([[5.]])})
    """

    learning_rate: LearningRate = 0.001
    initial_accumulator_value: float = field(default=0.1, kw_only=True)
    """The start value of accumulators; above 0, or 0 with an epsilon."""
    epsilon: float = field(default=0.0, kw_only=True)
    """Added to the root."""

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

    >>> momentum = AdagradMomentum(0.1, momentum=0.9)
    >>> zero = {"accumulators": torch.zeros(1, 1), "momenta": torch.zeros(1, 1)}
    >>> momentum.step(torch.ones(1, 1), zero, torch.full((1, 1), 4.0), torch.tensor([0.1]))[0]
    tensor([[-0.1000]])
    """

    learning_rate: LearningRate = 0.001
    momentum: float = field(default=0.0, kw_only=True)
    """Share of the momentum that stays, in [0, 1)."""
    use_nesterov: bool = field(default=False, kw_only=True)
    """True if the step looks ahead by one momentum."""
    exponent: float = field(default=2.0, kw_only=True)
    """The root taken of the accumulator: 2 is the square root; above 0."""
    beta2: float = field(default=1.0, kw_only=True)
    """Decay of the accumulator, in (0, 1]; 1 sums up as Adagrad does."""
    epsilon: float = field(default=1e-10, kw_only=True)
    """Added to the accumulator before the root; above 0."""

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

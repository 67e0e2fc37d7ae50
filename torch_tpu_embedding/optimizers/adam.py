"""Adam. Letters: U unique rows, D dim."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .base import LearningRate, Slots, SlottedOptimizer, require_number


@dataclass(frozen=True)
class Adam(SlottedOptimizer):
    """Adam without bias correction; by default on the rows looked up only.

    m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²;
    w ← w − lr·m/√(v + ε²) with `sum_inside_sqrt`, else w ← w − lr·m/(√v + ε).

    Source: Kingma and Ba 2015, in the form of TPUEmbedding. For the corrected form give a callable
    learning rate lr·√(1−β₂ᵗ)/(1−β₁ᵗ).

    >>> adam = Adam(0.1)
    >>> zero = {"momenta": torch.zeros(1, 1), "velocities": torch.zeros(1, 1)}
    >>> adam.step(torch.ones(1, 1), zero, torch.ones(1, 1), torch.tensor([0.1]))[0]
    tensor([[-0.3162]])
    """

    learning_rate: LearningRate = 0.001
    beta_1: float = field(default=0.9, kw_only=True)
    """Decay of the first moment, in [0, 1)."""
    beta_2: float = field(default=0.999, kw_only=True)
    """Decay of the second moment, in [0, 1)."""
    epsilon: float = field(default=1e-7, kw_only=True)
    """Keeps the step finite where v is 0; above 0."""
    lazy_adam: bool = field(default=True, kw_only=True)
    """True: only rows looked up change. False: every row decays its moments and moves at every step, as in
    the paper, which reads and writes the whole table."""
    sum_inside_sqrt: bool = field(default=True, kw_only=True)
    """Where ε stands; see the formula."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta_1", "beta_2"):
            value = getattr(self, name)
            require_number("Adam", name, value)
            if not 0.0 <= value < 1.0:
                raise ValueError(f"Adam: {name} must be in [0, 1), got {value}")
        require_number("Adam", "epsilon", self.epsilon)
        if self.epsilon <= 0.0:
            raise ValueError(f"Adam: epsilon must be above 0, got {self.epsilon}")

        if not self.lazy_adam and not self.use_gradient_accumulation:
            raise ValueError(
                "Adam: lazy_adam=False needs use_gradient_accumulation=True, for all rows step once"
            )

    @property
    def moves_all_rows(self) -> bool:
        return not self.lazy_adam

    def slot_initial_values(self) -> dict[str, float]:
        return {"momenta": 0.0, "velocities": 0.0}

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        momenta, velocities = slots["momenta"], slots["velocities"]
        d_m = (g - momenta) * (1.0 - self.beta_1)
        d_v = (g * g - velocities) * (1.0 - self.beta_2)
        m, v = momenta + d_m, velocities + d_v
        if self.sum_inside_sqrt:
            change = m * torch.rsqrt(v + self.epsilon**2) * -lr
        else:
            change = m / (torch.sqrt(v) + self.epsilon) * -lr
        return change, {"momenta": d_m, "velocities": d_v}

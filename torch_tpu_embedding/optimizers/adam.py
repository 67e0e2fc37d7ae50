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
        beta_1: decay of the first moment, in [0, 1).
        beta_2: decay of the second moment, in [0, 1).
        epsilon: keeps the step finite where v is 0; above 0.
        lazy_adam: True: only rows looked up change. False: every row decays its moments and moves
            at every step, as in the paper, which reads and writes the whole table.
        sum_inside_sqrt: where ε stands; see the formula.

    Examples:
        >>> adam = Adam(0.1)
        >>> zero = {"momenta": torch.zeros(1, 1), "velocities": torch.zeros(1, 1)}
        >>> adam.step(torch.ones(1, 1), zero, torch.ones(1, 1), torch.tensor([0.1]))[0]
        tensor([[-0.3162]])
    """

    learning_rate: LearningRate = 0.001
    beta_1: float = field(default=0.9, kw_only=True)
    beta_2: float = field(default=0.999, kw_only=True)
    epsilon: float = field(default=1e-7, kw_only=True)
    lazy_adam: bool = field(default=True, kw_only=True)
    sum_inside_sqrt: bool = field(default=True, kw_only=True)

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

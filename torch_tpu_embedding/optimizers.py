"""Optimizers of embedding rows: TF's names and formulas as pure functions of the rows touched.

Each class is a frozen value: equal settings are equal objects. `step` gives the *changes* of weights
and slots, because the device writes them with one scatter-add. There is no bias correction in Adam and
no epsilon in Adagrad: that is how TPUEmbedding defines them, other than torch.optim.

Letters: U unique rows, D dim; g is the gradient of a row, summed over all its occurrences in the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

LearningRate = float | Callable[[], float]
Slots = dict[str, Tensor]
SlotFn = Callable[[Tensor, list[str], list[Callable[..., Tensor]]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Optimizer:
    """The settings that all optimizers share, in TF's names.

    One step on a row does, in this order: clip the gradient (`clipvalue`), decay the weight, apply the
    rule of the subclass, clip the weight.
    """

    learning_rate: LearningRate = 0.01
    """A number, or a callable without arguments that is read at each `apply_gradients` (tables that
    hold the same callable share one call)."""
    use_gradient_accumulation: bool = field(default=True, kw_only=True)
    """True: gradients of one id are summed over the whole step, then the row gets one update. False
    (an update per occurrence) is only taken where it is the same thing: SGD without clipping or decay."""
    clip_weight_min: float | None = field(default=None, kw_only=True)
    """Lower bound of the weights of updated rows."""
    clip_weight_max: float | None = field(default=None, kw_only=True)
    """Upper bound of the weights of updated rows."""
    weight_decay_factor: float | None = field(default=None, kw_only=True)
    """Updated rows lose this share of their weight before the step: w ← w − factor·w."""
    multiply_weight_decay_factor_by_learning_rate: bool | None = field(default=None, kw_only=True)
    """True: the share lost is factor·learning_rate."""
    clipvalue: float | tuple[float | None, float | None] | None = field(default=None, kw_only=True)
    """Bounds of each element of the summed gradient: c for (−c, c), or (min, max) with None for open."""
    low_dimensional_packing_status: bool = field(default=False, kw_only=True)
    """Accepted for TF's sake; narrow rows are always packed here, and safely for every optimizer."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        rate = self.learning_rate
        if not callable(rate):
            _require_number(name, "learning_rate", rate)
        for argument in ("clip_weight_min", "clip_weight_max", "weight_decay_factor"):
            if getattr(self, argument) is not None:
                _require_number(name, argument, getattr(self, argument))
        low, high = self.clip_weight_min, self.clip_weight_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"{name}: clip_weight_min {low} is above clip_weight_max {high}")
        self._check_clipvalue(name)
        if not self.use_gradient_accumulation:
            self._check_without_accumulation(name)

    def _check_clipvalue(self, name: str) -> None:
        if self.clipvalue is None:
            return
        if isinstance(self.clipvalue, list):
            raise TypeError(f"{name}: clipvalue must be a number or a tuple (min, max), got a list")
        low, high = self.gradient_bounds
        for bound in (low, high):
            if bound is not None:
                _require_number(name, "clipvalue", bound)
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"{name}: clipvalue {self.clipvalue!r} leaves no gradient: {low} > {high}"
            )
        if not self.use_gradient_accumulation:
            raise ValueError(
                f"{name}: clipvalue={self.clipvalue!r} needs use_gradient_accumulation=True, "
                "for the clipped value is the sum over the step"
            )

    def _check_without_accumulation(self, name: str) -> None:
        raise ValueError(
            f"{name}: use_gradient_accumulation=False (one update per occurrence of an id) is not "
            "supported; leave it True for one update per distinct id"
        )

    @property
    def gradient_bounds(self) -> tuple[float | None, float | None]:
        """`clipvalue` as (min, max)."""
        if isinstance(self.clipvalue, tuple):
            if len(self.clipvalue) != 2:
                raise ValueError(
                    f"{type(self).__name__}: clipvalue must be a number or a tuple (min, max), "
                    f"got {self.clipvalue!r}"
                )
            return self.clipvalue
        if self.clipvalue is None:
            return None, None
        return -self.clipvalue, self.clipvalue

    @property
    def slot_variable_names(self) -> tuple[str, ...]:
        """The names of the slots, TF's, in checkpoint keys too."""
        return tuple(self.slot_initial_values())

    def slot_initial_values(self) -> dict[str, float]:
        """Slot name → the number that fills a new slot `[V, D]`."""
        return {}

    def rule(self) -> Optimizer:
        """This optimizer without what may differ between tables that share one update program."""
        return replace(self, learning_rate=0.0)

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """The rule alone: changes of weights and slots.

        Args:
            w: weights `[U, D]`, already decayed. slots: name → `[U, D]`. g: gradients `[U, D]`.
            lr: learning rates `[U, 1]` or `[1]`.
        """
        raise NotImplementedError

    def step(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """Changes of weights and slots for one update, clipping and decay included.

        Arguments as in `update`, with `w` as it stands in the table.
        """
        low, high = self.gradient_bounds
        if low is not None or high is not None:
            g = g.clamp(low, high)
        decayed = w
        if self.weight_decay_factor:
            factor = self.weight_decay_factor
            by_rate = self.multiply_weight_decay_factor_by_learning_rate
            decayed = w - w * (factor * lr if by_rate else factor)
        change, slot_changes = self.update(decayed, slots, g, lr)
        if decayed is not w:
            change = decayed + change - w
        if self.clip_weight_min is not None or self.clip_weight_max is not None:
            change = (w + change).clamp(self.clip_weight_min, self.clip_weight_max) - w
        return change, slot_changes


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: w ← w − lr·g.

    >>> sgd = SGD(0.1)
    >>> sgd.step(torch.ones(1, 2), {}, torch.tensor([[1.0, -2.0]]), torch.tensor([0.1]))
    (tensor([[-0.1000,  0.2000]]), {})
    """

    def _check_without_accumulation(self, name: str) -> None:
        bounded = self.clip_weight_min is not None or self.clip_weight_max is not None
        if bounded or self.weight_decay_factor:
            super()._check_without_accumulation(name)

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        return g * -lr, {}


@dataclass(frozen=True)
class _Slotted(Optimizer):
    """An optimizer that keeps state beside each weight."""

    slot_variable_creation_fn: SlotFn | None = field(default=None, kw_only=True)
    """`fn(table, slot_names, slot_initializers)` gives the start values of the slots as a dict name →
    tensor `[V, D]`; `table` is the initial weight, each initializer a callable (shape, dtype)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        creation = self.slot_variable_creation_fn
        if creation is not None and not callable(creation):
            raise ValueError(
                f"{type(self).__name__}: slot_variable_creation_fn must be None or a callable "
                f"(table, slot_names, slot_initializers) -> dict, got {creation!r}"
            )

    def rule(self) -> Optimizer:
        return replace(self, learning_rate=0.0, slot_variable_creation_fn=None)


@dataclass(frozen=True)
class Adagrad(_Slotted):
    """Adagrad without an epsilon: a ← a + g²; w ← w − lr·g/√a.

    Source: Duchi et al. 2011, in the form of TPUEmbedding (the accumulator starts above zero instead).

    >>> adagrad = Adagrad(0.1)
    >>> rows = {"accumulators": torch.full((1, 1), 0.1)}
    >>> adagrad.step(torch.ones(1, 1), rows, torch.full((1, 1), 3.0), torch.tensor([0.1]))
    (tensor([[-0.0994]]), {'accumulators': tensor([[9.]])})
    """

    learning_rate: LearningRate = 0.001
    initial_accumulator_value: float = field(default=0.1, kw_only=True)
    """What new accumulators hold; must be above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_number("Adagrad", "initial_accumulator_value", self.initial_accumulator_value)
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
class Adam(_Slotted):
    """Lazy Adam without bias correction, on the rows looked up only.

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
    """True: only rows looked up change. False would touch every row each step; not supported."""
    sum_inside_sqrt: bool = field(default=True, kw_only=True)
    """Where ε stands; see the formula."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta_1", "beta_2"):
            value = getattr(self, name)
            _require_number("Adam", name, value)
            if not 0.0 <= value < 1.0:
                raise ValueError(f"Adam: {name} must be in [0, 1), got {value}")
        _require_number("Adam", "epsilon", self.epsilon)
        if self.epsilon <= 0.0:
            raise ValueError(f"Adam: epsilon must be above 0, got {self.epsilon}")
        if not self.lazy_adam:
            raise ValueError(
                "Adam: lazy_adam=False moves every row of the table at every step and is not "
                "supported; leave it True to move the rows looked up"
            )

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


def _require_number(owner: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{owner}: {name} must be a finite number, got {value!r}")

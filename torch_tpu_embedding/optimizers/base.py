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

from torch import Tensor

from .bounds import bounded

LearningRate = float | Callable[[], float]
"""A number, or a callable without arguments that is read at each update."""
Slots = dict[str, Tensor]
SlotFn = Callable[[Tensor, list[str], list[Callable[..., Tensor]]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Optimizer:
    """The settings that all optimizers share, in TF's names.

    One step on a row does, in this order: clip the gradient (`clipvalue`), decay the weight, apply the
    rule of the subclass, clip the weight.

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
    """

    learning_rate: LearningRate = 0.01
    use_gradient_accumulation: bool = field(default=True, kw_only=True)
    clip_weight_min: float | None = field(default=None, kw_only=True)
    clip_weight_max: float | None = field(default=None, kw_only=True)
    weight_decay_factor: float | None = field(default=None, kw_only=True)
    multiply_weight_decay_factor_by_learning_rate: bool | None = field(default=None, kw_only=True)
    clipvalue: float | tuple[float | None, float | None] | None = field(default=None, kw_only=True)
    low_dimensional_packing_status: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        rate = self.learning_rate
        if not callable(rate):
            require_number(name, "learning_rate", rate)
        for argument in ("clip_weight_min", "clip_weight_max", "weight_decay_factor"):
            if getattr(self, argument) is not None:
                require_number(name, argument, getattr(self, argument))
        low, high = self.clip_weight_min, self.clip_weight_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"{name}: clip_weight_min {low} is above clip_weight_max {high}")
        self._check_clipvalue(name)

    def _check_clipvalue(self, name: str) -> None:
        if self.clipvalue is None:
            return
        if isinstance(self.clipvalue, list):
            raise TypeError(f"{name}: clipvalue must be a number or a tuple (min, max), got a list")
        if not isinstance(self.clipvalue, tuple):
            require_number(name, "clipvalue", self.clipvalue)
        low, high = self.gradient_bounds
        for bound in (low, high):
            if bound is not None:
                require_number(name, "clipvalue", bound)
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"{name}: clipvalue {self.clipvalue!r} leaves no gradient: {low} > {high}"
            )
        if not self.use_gradient_accumulation:
            raise ValueError(
                f"{name}: clipvalue={self.clipvalue!r} needs use_gradient_accumulation=True, "
                "for the clipped value is the sum over the step"
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
    def clip_gradient_min(self) -> float | None:
        """The lower bound in `clipvalue`, as TF's optimizers show it."""
        return self.gradient_bounds[0]

    @property
    def clip_gradient_max(self) -> float | None:
        """The upper bound in `clipvalue`."""
        return self.gradient_bounds[1]

    @property
    def slot_variable_names(self) -> tuple[str, ...]:
        """The names of the slots, TF's, in checkpoint keys too."""
        return tuple(self.slot_initial_values())

    def slot_initial_values(self) -> dict[str, float]:
        """Slot name → the number that fills a new slot `[V, D]`."""
        return {}

    def slot_width(self, name: str, dim: int) -> int:
        """Numbers that a slot keeps for each row: D, or 1 for a slot of the whole row.

        Args:
            name: of the slot.
            dim: D.
        """
        return dim

    @property
    def steps_per_occurrence(self) -> bool:
        """True if each occurrence of an id is an update of its own."""
        return not self.use_gradient_accumulation

    @property
    def divides_by_rate(self) -> bool:
        """True if a learning rate of 0 has no meaning."""
        return False

    @property
    def moves_all_rows(self) -> bool:
        """True if rows that were not looked up move too."""
        return False

    def rule(self) -> Optimizer:
        """This optimizer without what may differ between tables that share one update program."""
        return replace(self, learning_rate=0.0)

    def update(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """The rule alone: changes of weights and slots.

        Args:
            w: weights `[U, D]`, already decayed.
            slots: name → `[U, D]`, or `[U, 1]` for a slot of the whole row.
            g: gradients `[U, D]`, summed over the step and clipped.
            lr: learning rates `[U, 1]` or `[1]`.

        Returns:
            What to add to the weights `[U, D]`, and to each slot, by name.
        """
        raise NotImplementedError

    def step(self, w: Tensor, slots: Slots, g: Tensor, lr: Tensor) -> tuple[Tensor, Slots]:
        """Changes of weights and slots for one update, clipping and decay included.

        Args:
            w: weights `[U, D]`, as they stand in the table.
            slots: name → `[U, D]`, or `[U, 1]` for a slot of the whole row.
            g: gradients `[U, D]`, summed over the step.
            lr: learning rates `[U, 1]` or `[1]`.

        Returns:
            What to add to the weights `[U, D]`, and to each slot, by name.
        """
        low, high = self.gradient_bounds
        if low is not None or high is not None:
            g = bounded(g, low, high)
        decayed = w
        if self.weight_decay_factor:
            factor = self.weight_decay_factor
            by_rate = self.multiply_weight_decay_factor_by_learning_rate
            decayed = w - w * (factor * lr if by_rate else factor)
        change, slot_changes = self.update(decayed, slots, g, lr)
        if decayed is not w:
            change = decayed + change - w
        if self.clip_weight_min is not None or self.clip_weight_max is not None:
            change = bounded(w + change, self.clip_weight_min, self.clip_weight_max) - w
        return change, slot_changes


@dataclass(frozen=True)
class SlottedOptimizer(Optimizer):
    """An optimizer that keeps state beside each weight.

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
    """

    slot_variable_creation_fn: SlotFn | None = field(default=None, kw_only=True)

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


def require_number(owner: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{owner}: {name} must be a finite number, got {value!r}")

"""The param group of a table in EmbeddingOptimizer: a rate to set, activations to see, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_SETTINGS = {
    "alpha", "amsgrad", "betas", "capturable", "centered", "dampening", "decoupled_weight_decay",
    "differentiable", "eps", "foreach", "fused", "initial_accumulator_value", "lr_decay", "maximize",
    "momentum", "nesterov", "rho", "weight_decay",
}  # fmt: skip
"""The settings of torch's optimizers besides lr."""


class TableGroup(dict[str, Any]):
    """A param group that refuses what the table's update would not heed.

    Args:
        name: of the table.
        rate: its learning rate, under 'lr'.
        params: the list that holds the activations of the step; the embedding fills and clears it.
    """

    def __init__(self, name: str, rate: float, params: list[Tensor]) -> None:
        super().__init__(params=params, lr=rate, name=name)

    @staticmethod
    def check(name: str, values: Mapping[str, Any]) -> None:
        """Raise ValueError if there is a setting of a torch optimizer other than lr."""
        others = sorted(_SETTINGS.intersection(values))
        if others:
            raise ValueError(
                f"EmbeddingOptimizer: the group of table {name!r} has no {', '.join(others)}; the "
                "optimizer of the table sets how it is updated, as TableConfig(optimizer=Adam(0.001, "
                "weight_decay_factor=0.01)) does"
            )

    def __setitem__(self, key: str, value: Any) -> None:
        self.check(self["name"], {key: value})
        if key == "params":
            held = self["params"]
            if len(held) != len(value) or any(a is not b for a, b in zip(held, value, strict=True)):
                raise ValueError(
                    f"EmbeddingOptimizer: the params of table {self['name']!r} are the activations of "
                    "the step, which the embedding sets; give other parameters to an optimizer of their "
                    "own"
                )
            return  # wrappers replace the list by an equal one; only this one is filled later
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several entries, as `group[key] = value` does."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

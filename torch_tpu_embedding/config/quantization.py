"""Simulated quantization of looked-up rows, after `tf.tpu.experimental.embedding.QuantizationConfig`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..optimizers.bounds import bounded


@dataclass(frozen=True)
class QuantizationConfig:
    """Rounds values to one of `num_buckets` evenly spaced ones from `lower` to `upper`.

    Each row is rounded before the combiner; gradients pass as if it were not (straight-through).

    Args:
        num_buckets: n, the number of values that there are; at least 2.
        lower: the lowest value; what is below becomes it.
        upper: the highest value; what is above becomes it.

    Raises:
        ValueError: fewer than two buckets, or the bounds are not finite and rising.
    """

    num_buckets: int
    lower: float
    upper: float

    def __post_init__(self) -> None:
        count = self.num_buckets
        if not isinstance(count, int) or isinstance(count, bool) or count < 2:
            raise ValueError(
                f"QuantizationConfig: num_buckets must be an int of at least 2, got {count!r}"
            )
        if not (
            math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper
        ):
            raise ValueError(
                f"QuantizationConfig: lower {self.lower!r} must be below upper {self.upper!r}, both finite"
            )


def quantize(rows: Tensor, config: QuantizationConfig | None) -> Tensor:
    """⌊(x − lower)/q + ½⌋·q + lower with q = (upper − lower)/(n − 1), x cut to the bounds.

    >>> quantize(torch.tensor([-0.6, -0.5, 0.49, 7.0]), QuantizationConfig(3, -1.0, 1.0))
    tensor([-1.,  0.,  0.,  1.])
    """
    if config is None:
        return rows
    step = (config.upper - config.lower) / (config.num_buckets - 1)
    cut = bounded(rows, config.lower, config.upper)
    return torch.floor((cut - config.lower) / step + 0.5) * step + config.lower

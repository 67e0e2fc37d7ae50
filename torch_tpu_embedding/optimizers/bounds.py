"""Bounds for the numbers of rows and gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def bounded(value: Tensor, low: float | None, high: float | None) -> Tensor:
    """`value.clamp(low, high)`, in which nan stays nan on every device.

    torch_xla 2.9 makes a bound of nan, and a finite number of an infinite one where there is no bound: a
    gradient that is not finite would go on as an ordinary one.
    """
    if low is not None:
        value = torch.where(value < low, low, value)
    return value if high is None else torch.where(value > high, high, value)

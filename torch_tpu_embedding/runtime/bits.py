"""The bits of 32-bit numbers, on the host and on a device: what torch's `view(dtype)` gives, and torch_xla
does on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from .torch_xla import bits as of_xla


def as_ints(values: Tensor) -> Tensor:
    """The bits of float32 numbers, as int32."""
    return of_xla.as_ints(values) if _is_xla(values) else values.view(torch.int32)


def as_floats(bits: Tensor) -> Tensor:
    """The float32 numbers of these int32 bits."""
    return of_xla.as_floats(bits) if _is_xla(bits) else bits.view(torch.float32)


def shift_right(bits: Tensor, by: int) -> Tensor:
    """int32 bits shifted to the right, zeros coming in from the left.

    Args:
        by: 1 … 30.
    """
    if _is_xla(bits):
        return of_xla.shift_right(bits, by)
    return (bits >> by) & ((1 << (32 - by)) - 1)


def _is_xla(values: Tensor) -> bool:
    return values.device.type == "xla"

"""The way between the numbers of a row and the lanes of its record.

In float32 they are the same. In an array of packed weights a lane is an int32: two bfloat16 of a row, or
the bits of one float32 of a slot. Lane i holds number i in its lower half and number i + W in its upper
half, W being the lanes of the field, so that numbers side by side stay so. Letters: n rows, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...runtime.bits import as_floats, as_ints, shift_right
from ..layout import ArrayLayout

UPPER_HALF = -0x10000
"""The mask of the upper 16 bits: sign, exponent and 7 bits of the fraction, all that bfloat16 keeps."""


def numbers_of(layout: ArrayLayout, field: str, lanes: Tensor) -> Tensor:
    """The float32 numbers `[n, width]` of a field, out of its lanes."""
    if layout.packed_dim is None:
        return lanes
    if field not in layout.packed:
        return as_floats(lanes)
    both = torch.cat([lanes * 0x10000, lanes & UPPER_HALF], dim=1)
    return as_floats(both[:, : layout.packed_dim])


def lanes_of(layout: ArrayLayout, field: str, numbers: Tensor) -> Tensor:
    """The lanes of a field, out of its float32 numbers `[n, width]`; those to pack must be bfloat16
    numbers."""
    if layout.packed_dim is None:
        return numbers
    bits = as_ints(numbers.contiguous())
    return packed(bits) if field in layout.packed else bits


def packed(bits: Tensor) -> Tensor:
    """Lanes out of the bits `[n, D]` of float32 numbers whose lower halves are 0."""
    width = -(-bits.shape[1] // 2)
    bits = pad(bits, (0, 2 * width - bits.shape[1]))
    return shift_right(bits[:, :width], 16) | bits[:, width:]

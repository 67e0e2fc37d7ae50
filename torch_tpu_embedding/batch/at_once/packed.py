"""A batch that was packed at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ...runtime import host
from ..program_shape import StackShape

Fit = Callable[[int, int, int], StackShape]
"""Number of a stack, of its unique records and of its ragged ids → the stack's program shape."""


class Packed(NamedTuple):
    """The numbers of a batch."""

    shapes: tuple[StackShape, ...]
    """The program shape of each stack."""
    ints: Tensor
    """The int32 buffer."""
    floats: Tensor
    """The float32 buffer."""
    records: list[Tensor]
    """Per stack the unique records, which are views of `ints`."""
    copy: host.DeviceCopy | None
    """Keeps `floats` on the device, if all batches of the same form have them."""

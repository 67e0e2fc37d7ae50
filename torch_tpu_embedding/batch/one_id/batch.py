"""The stacks of a batch with one id a sample, one after another, into one buffer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...config.resolved import Resolved
from ...inputs.one_id import OneIdBags
from ...runtime.phases import phase
from ..buffer_parts import IntParts
from ..program_shape import StackOrder, StackShape
from .stack import OneIdStack

_Array = NDArray[Any]
Fit = Callable[[int, int], StackShape]


class OneIdBatch:
    """All stacks of batches of one size.

    Args:
        orders: of the stacks, one-hot features alone.
        size: B.
    """

    def __init__(self, resolved: Resolved, orders: tuple[StackOrder, ...], size: int) -> None:
        self._stacks = [OneIdStack(resolved, order, size) for order in orders]

    def pack(
        self, bags: OneIdBags, fit: Fit
    ) -> tuple[tuple[StackShape, ...], Tensor, list[Tensor]]:
        """Deduplicate a batch and write its numbers.

        Args:
            fit: number of a stack and of its unique records → the stack's program shape.

        Returns:
            The shapes; the int32 buffer; per stack the unique records, which are views of it.
        """
        ids = bags.ids.numpy()
        ranked = [stack.rank(ids) for stack in self._stacks]
        shapes = tuple(fit(number, each.ids.size) for number, each in enumerate(ranked))
        with phase("buffers"):
            lengths = [length for shape in shapes for length in shape.int_lengths]
            ints = np.empty(sum(lengths), dtype=np.int32)
            ends = [*accumulate(lengths)]
            pieces = [ints[end - length : end] for end, length in zip(ends, lengths, strict=True)]
            count = len(IntParts._fields)
            records = [
                stack.write(each, IntParts(*pieces[count * number : count * (number + 1)]))
                for number, (stack, each) in enumerate(zip(self._stacks, ranked, strict=True))
            ]
        return shapes, torch.from_numpy(ints), [torch.from_numpy(each) for each in records]

"""The stacks of a batch whose features have bags of one length each, one after another, into one buffer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...config.resolved import Resolved
from ...inputs.at_once.bags import OneLengthBags
from ...runtime import host
from ...runtime.phases import phase
from ..buffer_parts import IntParts
from ..dedup import Ranks
from ..program_shape import StackOrder
from .packed import Fit, Packed
from .stack import OneLengthStack

_Array = NDArray[Any]


class OneLengthBatch:
    """All stacks of batches of one form.

    Args:
        orders: of the stacks, whose features are one-hot or of fixed length.
        like: a batch of that form.
        ranks: of the batcher's thread.
    """

    def __init__(
        self,
        resolved: Resolved,
        orders: tuple[StackOrder, ...],
        like: OneLengthBags,
        ranks: Ranks,
    ) -> None:
        self._stacks = [OneLengthStack(resolved, order, like.size, ranks) for order in orders]
        self._floats = torch.cat([_gains(stack, like.gains) for stack in self._stacks])
        self._copy = host.DeviceCopy()

    def pack(self, bags: OneLengthBags, fit: Fit) -> Packed:
        """Deduplicate a batch and write its numbers."""
        matrix = None if bags.matrix is None else bags.matrix.numpy()
        parts = bags.parts if matrix is None else [*matrix]
        unique = [stack.find(parts, matrix) for stack in self._stacks]
        shapes = tuple(fit(number, count, 0) for number, count in enumerate(unique))
        with phase("buffers"):
            lengths = [length for shape in shapes for length in shape.int_lengths]
            ints = np.empty(sum(lengths), dtype=np.int32)
            ends = [*accumulate(lengths)]
            pieces = [ints[end - length : end] for end, length in zip(ends, lengths, strict=True)]
            count, records = len(IntParts._fields), []
            for number, stack in enumerate(self._stacks):
                of_stack = IntParts(*pieces[count * number : count * (number + 1)])
                # Nothing is ragged, so that the rows of all lookups are the end of the stack's part.
                end = ends[count * (number + 1) - 1]
                records.append(stack.write(of_stack, ints[end - stack.num_lookups : end]))
        of_stacks = [torch.from_numpy(each) for each in records]
        return Packed(shapes, torch.from_numpy(ints), self._floats, of_stacks, self._copy)


def _gains(stack: OneLengthStack, gains: Sequence[float]) -> Tensor:
    """The gains of a stack's fixed-length features."""
    found = np.zeros(stack.num_lookups, dtype=np.float32)
    for region in stack.regions:
        region.of(found)[...] = gains[region.feature]
    return torch.from_numpy(found[stack.num_one_hot :])

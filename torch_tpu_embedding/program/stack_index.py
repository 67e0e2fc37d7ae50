"""Names for the parts of a batch's two buffers on the device.

Letters: H ids of a bag of fixed length, N ids, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from ..batch.buffer_parts import FloatParts, IntParts
from ..batch.program_shape import Segment, StackSizes
from ..runtime.slices import cut, separate


@dataclass(frozen=True)
class StackIndex:
    """One stack's part of a batch, on the device."""

    sizes: StackSizes
    ints: IntParts[Tensor]
    """int32."""
    floats: FloatParts[Tensor]
    """float32."""

    @property
    def valid(self) -> Tensor:
        """`[U, 1]` bool: False for the padding at the end."""
        return (self.ints.record != self.sizes.plan.stack.padding_record)[:, None]

    @property
    def places(self) -> list[Tensor]:
        """The row of each place: of the runs of direct segments one after another, then of those of fixed
        ones, then of all ragged ids."""
        plan = self.sizes.plan
        places = cut(self.ints.to_direct, _places(plan.direct_runs))
        places += cut(self.ints.to_fixed, _places(plan.fixed_runs))
        return [*places, self.ints.to_ragged] if plan.num_bags else places

    @property
    def fixed_gains(self) -> list[Tensor]:
        """The gains of each run of fixed segments, `[H · bags, 1]`."""
        runs = self.sizes.plan.fixed_runs
        return separate(self.floats.fixed_gain[:, None], _places(runs)) if runs else []


def _places(runs: Sequence[Sequence[Segment]]) -> list[int]:
    return [sum(segment.places for segment in run) for run in runs]


def split_buffers(
    sizes: tuple[StackSizes, ...], ints: Tensor, floats: Tensor
) -> tuple[StackIndex, ...]:
    """Name the parts of a batch's two device buffers."""
    parts = iter(cut(ints, [part for stack in sizes for part in stack.int_lengths]))
    gains = iter(cut(floats, [part for stack in sizes for part in stack.float_lengths]))
    return tuple(
        StackIndex(
            stack,
            IntParts(*islice(parts, len(stack.int_lengths))),
            FloatParts(*islice(gains, len(stack.float_lengths))),
        )
        for stack in sizes
    )

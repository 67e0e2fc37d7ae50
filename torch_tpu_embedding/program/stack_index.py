"""Names for the parts of a batch's two buffers on the device.

Letters: H ids of a bag of fixed length, N ids, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..batch.program_shape import Segment, StackSizes
from ..runtime.slices import cut, separate


@dataclass(frozen=True)
class StackIndex:
    """One stack's part of a batch, on the device."""

    sizes: StackSizes
    record: Tensor
    """`[U]` int32, rising; the padding record at the end."""
    group: Tensor
    """`[U]` int32: which of the stack's tables the record is of; empty if there is one table."""
    served: Tensor
    """`[num_slots]` int32: the unique record that lies in each slot sent to other devices."""
    to_direct: Tensor
    """`[num_direct]` int32: the row at each direct place: a unique record, or the slot it comes in."""
    to_fixed: Tensor
    """`[num_fixed]` int32: the row at each place of the features whose bags have one length H, likewise;
    for each run of them `[H, bags]`, the first ids of all its bags first."""
    to_ragged: Tensor
    """`[N]` int32: the row of each id of the others, likewise."""
    bag: Tensor
    """`[N]` int32, rising: the bag of each such id."""
    fixed_gain: Tensor
    """`[num_fixed]` float32: the factor of each place in its bag's sum; 0 where there is only padding."""
    ragged_gain: Tensor
    """`[N]` float32, likewise."""

    @property
    def valid(self) -> Tensor:
        """`[U, 1]` bool: False for the padding at the end."""
        return (self.record != self.sizes.plan.stack.padding_record)[:, None]

    @property
    def places(self) -> list[Tensor]:
        """The row of each place: of the runs of direct segments one after another, then of those of fixed
        ones, then of all ragged ids."""
        plan = self.sizes.plan
        places = cut(self.to_direct, _places(plan.direct_runs))
        places += cut(self.to_fixed, _places(plan.fixed_runs))
        return [*places, self.to_ragged] if plan.num_bags else places

    @property
    def fixed_gains(self) -> list[Tensor]:
        """The gains of each run of fixed segments, `[H · bags, 1]`."""
        runs = self.sizes.plan.fixed_runs
        return separate(self.fixed_gain[:, None], _places(runs)) if runs else []


def _places(runs: Sequence[Sequence[Segment]]) -> list[int]:
    return [sum(segment.places for segment in run) for run in runs]


def split_buffers(
    sizes: tuple[StackSizes, ...], ints: Tensor, floats: Tensor
) -> tuple[StackIndex, ...]:
    """Name the parts of a batch's two device buffers."""
    parts = iter(cut(ints, [part for stack in sizes for part in stack.int_parts]))
    gains = iter(cut(floats, [part for stack in sizes for part in stack.float_parts]))
    return tuple(
        StackIndex(
            stack,
            record=next(parts),
            group=next(parts),
            served=next(parts),
            to_direct=next(parts),
            to_fixed=next(parts),
            to_ragged=next(parts),
            bag=next(parts),
            fixed_gain=next(gains),
            ragged_gain=next(gains),
        )
        for stack in sizes
    )

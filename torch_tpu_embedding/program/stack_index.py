"""A batch on the device, and names for the parts of its two buffers.

Letters: H ids of a bag of fixed length, N ids, U unique rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor

from ..batch.buffer_parts import FloatParts, IntParts
from ..batch.occurrences import Chunk
from ..batch.program_shape import Segment, StackSizes
from ..runtime.slices import cut, separate


@dataclass(frozen=True)
class SentBatch:
    """A batch on the device, not yet looked up.

    Whole buffers, not their parts: a part is a traced tensor, and one that waits in a queue while a step
    ends would become an output of that step's program.
    """

    sizes: tuple[StackSizes, ...]
    ints: Tensor
    floats: Tensor
    chunks: tuple[tuple[Chunk, ...], ...]
    records: tuple[tuple[Tensor, ...], ...]
    """Per stack and device of this process the unique records, on the host."""
    name: str
    """The same in all processes, and of no other batch."""
    cut: tuple[int | None, ...] | None = None
    """As in `HostBatch`."""


@dataclass
class LookedUp:
    """A batch whose records were read; kept until its gradients come."""

    batch: SentBatch
    weight_records: list[Tensor]
    """Of the weights arrays, per stack; empty if the update shall read them anew."""
    version: int
    """Of the tables when the records were read."""
    loads: int
    """How often the tables had been loaded then."""
    row_gradients: dict[int, Tensor] = field(default_factory=dict)
    """Stack → the gradient of each of its unique records `[U, D]`, where they are known already; those of
    the features are not looked at then."""


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

"""A batch on the device, and names for the parts of its two buffers.

Letters: H ids of a bag of fixed length, N lookups, U unique rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, islice

from torch import Tensor

from ..batch.buffer_parts import FloatParts, IntParts
from ..batch.occurrences import RoundBatch
from ..batch.program_shape import FeatureSpan, StackShape
from ..kernels.sum_rows import fits_kernel
from ..runtime import host
from ..runtime.slices import cut, separate


@dataclass(frozen=True)
class SentNewRows:
    """The records of one stack that start anew, on the device."""

    ints: Tensor
    """int32, for each device of this process: the records `[n]`, then `[n, R]` for each array whose
    physical rows hold R > 1 of them."""
    weights: Tensor
    """For each device `[n, D]`."""
    records: tuple[Tensor, ...]
    """The records of each device on the host, without padding."""


@dataclass(frozen=True)
class SentBatch:
    """A batch on the device, not yet looked up.

    Whole buffers, not their parts: a part is a traced tensor, and one that waits in a queue while a step
    ends would become an output of that step's program.
    """

    shapes: tuple[StackShape, ...]
    ints: Tensor
    floats: Tensor | None
    """None if no lookup has a gain: an empty buffer is not sent."""
    round_batches: tuple[tuple[RoundBatch, ...], ...]
    records: tuple[tuple[Tensor, ...], ...]
    """The unique records that each device of this process reads, per stack, on the host."""
    name: str
    """The name of the batch, which no other batch has; the same in all processes."""
    cut: tuple[int | None, ...] | None = None
    """The same as `HostBatch.cut`."""
    new: Mapping[int, SentNewRows] = field(default_factory=dict)
    """Stack → the records that start anew with this batch, for stacks that have a DynamicVocabulary."""
    claim: object = None
    """The hold of this batch on its rows, so that they are not given to other ids."""

    @property
    def buffers(self) -> list[Tensor]:
        """The buffers that are there, the integers first."""
        return [self.ints] if self.floats is None else [self.ints, self.floats]


@dataclass
class LookedUp:
    """A batch whose records were read; kept until its gradients come."""

    batch: SentBatch
    weight_records: list[Tensor]
    """The records of the array of each stack's weights; empty if the update shall read them again."""
    version: int
    """The version of the tables when the records were read."""
    loads: int
    """The number of loads of the tables until the records were read."""
    row_gradients: dict[int, Tensor] = field(default_factory=dict)
    """Stack → the gradient of each of its unique records `[U, D]`, where it is known already; the gradients
    of the features are then ignored."""
    indices: tuple[StackIndex, ...] = ()
    """The parts of the batch as the lookup has named them, which saves their trace if the update is in the
    same program; empty if the update shall name them again."""

    def end_program(self) -> None:
        """Keep nothing of the program of the lookup, which ends before the update: else it would write all
        that is kept out."""
        self.weight_records = []
        self.indices = ()


@dataclass(frozen=True)
class StackIndex:
    """One stack's part of a batch, on the device.

    Its properties are traced once, though lookup and update both read them.
    """

    shape: StackShape
    ints: IntParts[Tensor]
    """int32."""
    floats: FloatParts[Tensor]
    """float32."""

    @cached_property
    def valid(self) -> Tensor:
        """`[U, 1]` bool: False for the padding at the end."""
        return (self.ints.record != self.shape.order.stack.padding_record)[:, None]

    @cached_property
    def lookup_rows(self) -> list[Tensor]:
        """The row of each lookup: a tensor for each group of fused one-hot spans, then for each group of
        fused fixed-length spans, then one for all ragged features."""
        order = self.shape.order
        rows = cut(self.ints.to_one_hot, _counts(order.fused_one_hot))
        rows += cut(self.ints.to_fixed_length, _counts(order.fused_fixed_length))
        return [*rows, self.ints.to_ragged] if order.num_bags else rows

    @cached_property
    def fixed_length_gains(self) -> list[Tensor]:
        """The gains `[H · bags, 1]` of each group of fused fixed-length spans."""
        fused = self.shape.order.fused_fixed_length
        return separate(self.floats.fixed_length_gain[:, None], _counts(fused)) if fused else []

    @property
    def sums_by_kernel(self) -> bool:
        """True if a kernel sums the rows of bags, and the gradients of rows: all features are ragged."""
        shape, order = self.shape, self.shape.order
        if len(order.ragged) < len(order.spans) or not order.stack.uses_kernels:
            return False
        rows = shape.num_positions or shape.num_unique
        return fits_kernel(rows, shape.num_ragged, order.num_bags, order.stack.dim)

    @cached_property
    def ragged_gains(self) -> Tensor:
        """The gain `[N, 1]` of each lookup of the ragged features."""
        # Of no lookups it lies on the host, see `split_buffers`.
        return self.floats.ragged_gain[:, None].to(self.ints.record.device)


def _counts(groups: Sequence[Sequence[FeatureSpan]]) -> list[int]:
    return [sum(span.num_lookups for span in fused) for fused in groups]


def split_buffers(
    shapes: tuple[StackShape, ...], ints: Tensor, floats: Tensor | None = None
) -> tuple[StackIndex, ...]:
    """Name the parts of a batch's two device buffers.

    Args:
        floats: None if it is empty; its parts are then empty tensors on the host.
    """
    parts = iter(_cut_parts(ints, [part for stack in shapes for part in stack.int_lengths]))
    lengths = [part for stack in shapes for part in stack.float_lengths]
    gains = iter([host.empty(0)] * len(lengths) if floats is None else _cut_parts(floats, lengths))
    return tuple(
        StackIndex(
            stack,
            IntParts(*islice(parts, len(stack.int_lengths))),
            FloatParts(*islice(gains, len(stack.float_lengths))),
        )
        for stack in shapes
    )


def _cut_parts(buffer: Tensor, lengths: list[int]) -> list[Tensor]:
    """As `cut`; parts without a number are one tensor, for each slice takes its time to trace."""
    if 0 not in lengths:
        return cut(buffer, lengths)
    nothing = buffer.narrow(0, 0, 0)
    ends = accumulate(lengths)
    return [
        buffer.narrow(0, end - size, size) if size else nothing
        for end, size in zip(ends, lengths, strict=True)
    ]

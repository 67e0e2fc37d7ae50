"""The parts of one stack in a batch's two buffers: their names and their order, said once.

`T` is a length, an array on the host, or a tensor on the device. Letters: H ids of a bag of fixed length,
N ids, U unique rows.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class IntParts(NamedTuple, Generic[T]):
    """The parts of the int32 buffer, in order."""

    record: T
    """`[U]`: the unique records, rising; the padding record at the end."""
    table: T
    """`[U]`: which of the stack's tables each record is of; empty if there is one table."""
    served: T
    """`[num_positions]`: the unique record that lies in each slot sent to other devices."""
    to_one_hot: T
    """`[num_one_hot]`: the row at each direct place: a unique record, or the slot it comes in."""
    to_fixed_length: T
    """`[num_fixed_length]`: the row at each place of the features whose bags have one length H, likewise; for each
    run of them `[H, bags]`, the first ids of all its bags first."""
    to_ragged: T
    """`[N]`: the row of each id of the ragged features, likewise."""
    bag: T
    """`[N]`, rising: the bag of each such id."""


class FloatParts(NamedTuple, Generic[T]):
    """The parts of the float32 buffer, in order."""

    fixed_length_gain: T
    """`[num_fixed_length]`: the factor of each place in its bag's sum; 0 where there is only padding."""
    ragged_gain: T
    """`[N]`: the factor of each ragged id in its bag's sum; 0 for padding."""

"""The parts of one stack in a batch's two buffers: their names and their order, said once.

`T` is a length, an array on the host, or a tensor on the device. Letters: H ids of a bag of fixed length,
N lookups, U unique rows.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class IntParts(NamedTuple, Generic[T]):
    """The parts of the int32 buffer, in order.

    The three `to_` parts lead from a lookup to its row: the number of a unique record or, where rows are
    exchanged, the position in the exchange buffer in which the row arrives.
    """

    record: T
    """`[U]`: the unique records, rising; the padding record at the end."""
    table: T
    """`[U]`: the record's table, counted in the stack; empty if the stack has one table."""
    incoming: T
    """`[num_positions]`: the unique record in each position of the exchange buffer that leaves this
    device."""
    to_one_hot: T
    """`[num_one_hot]`: the row of each lookup of the one-hot features."""
    to_fixed_length: T
    """`[num_fixed_length]`: the row of each lookup of the fixed-length features; for each group of fused
    lookups `[H, bags]`, the first ids of all its bags first."""
    to_ragged: T
    """`[N]`: the row of each lookup of the ragged features."""
    bag: T
    """`[N]`, rising: the bag of each lookup of the ragged features."""


class FloatParts(NamedTuple, Generic[T]):
    """The parts of the float32 buffer, in order."""

    fixed_length_gain: T
    """`[num_fixed_length]`: the gain of each lookup of the fixed-length features; 0 for empty positions."""
    ragged_gain: T
    """`[N]`: the gain of each lookup of the ragged features; 0 for padding."""

"""Rounding of float32 numbers to bfloat16, to nearest or by chance, in integer arithmetic.

`bfloat16` is the upper half of a float32. To add a random number below 2^16 to all bits and then to cut
the lower half off rounds away from zero with the probability that the lower half says, so the expected
result is the number itself (Gupta et al. 2015, "Deep learning with limited numerical precision"). A nan
stays a nan, an infinity an infinity, and a number that bfloat16 has stays as it is.

The random bits of a number are a hash of the seed, the names of table and field, the step, the id of the
row and the column: they depend neither on processes nor on padding. Letters: U records, D dim, T tables of
a stack, F fields that are rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...runtime.bits import as_floats, as_ints, shift_right
from .lanes import UPPER_HALF

_NAN = 0x7FC00000
_COLUMN = -0x61C88647  # 2^32 over the golden ratio
_FIRST, _SECOND = 0x7FEB352D, -0x7B935975
"""The factors of the hash "lowbias32" (Wellons 2018), as int32."""


def rounded_bits(values: Tensor, random: Tensor | None) -> Tensor:
    """The int32 bits of float32 numbers, rounded to bfloat16.

    Args:
        random: int32 in [0, 2^16) for each number; None rounds to nearest, ties to even.
    """
    bits = as_ints(values)
    if random is None:
        random = (shift_right(bits, 16) & 1) + 0x7FFF
    return torch.where(values != values, _NAN, (bits + random) & UPPER_HALF)


def nearest(values: Tensor) -> Tensor:
    """float32 numbers on the host, rounded to the nearest numbers that bfloat16 has."""
    return as_floats(rounded_bits(values.contiguous(), None))


def random_bits(
    keys: Tensor, record: Tensor, table: Tensor, dim: int, field: int = 0, fields: int = 1
) -> Tensor:
    """A random number of 16 bits for each number of a field of some records, int32 `[U, D]`.

    Args:
        keys: `[(F + 1) T + 1]` int32, one device's part of the `step_keys` of `keys.py`.
        record: `[U]` int32. table: `[U]`, the table of each, counted in the stack; unused if T is 1.
        field: the number of the field among those that are rounded. fields: F.
    """
    count = len(keys) // (fields + 1)
    salts, starts = keys[field * count : (field + 1) * count], keys[fields * count : -1]
    stride = keys[(fields + 1) * count :]
    if count > 1:
        salts, starts = salts.index_select(0, table), starts.index_select(0, table)
    of_row = _hash((starts + record * stride) ^ salts)
    width = -(-dim // 2)
    columns = torch.arange(width, dtype=torch.int32, device=record.device) * _COLUMN
    hashed = _hash(of_row[:, None] ^ columns)
    return torch.cat([hashed & ~UPPER_HALF, shift_right(hashed, 16)], dim=1)[:, :dim]


def _hash(bits: Tensor) -> Tensor:
    bits = (bits ^ shift_right(bits, 16)) * _FIRST
    bits = (bits ^ shift_right(bits, 15)) * _SECOND
    return bits ^ shift_right(bits, 16)


def exact_or_reason(values: Tensor, where: str) -> str | None:
    """None if bfloat16 has all of these float32 numbers, else what is wrong, with the remedy."""
    inexact = (as_ints(values.detach().contiguous()) & ~UPPER_HALF) != 0
    if not bool(inexact.any()):
        return None
    at = inexact.nonzero()[0].tolist()
    return (
        f"{where}: {float(values[tuple(at)])!r} at {at} is no number of bfloat16, the dtype of the table, "
        "and is not rounded unasked; round it with .bfloat16()"
    )

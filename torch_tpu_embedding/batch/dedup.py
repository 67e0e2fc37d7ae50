"""Unique keys and the way back from each occurrence: by marks where keys are dense, else by one sort.

Letters: N lookups, U unique rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_KEY_BITS = 63
_MARKS_PER_KEY = 4
"""The ratio of possible to given keys from which on marking keys takes longer than sorting them."""


def unique_inverse(keys: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """The same as `torch.unique(keys, return_inverse=True)`, in a third to a tenth of its time.

    Args:
        keys: `[N]` int64 in [0, bound); overwritten.
        bound: how many different keys there could be.

    Returns:
        The distinct keys, `[U]` int64, rising, and the position of each key among them, `[N]` int32.
    """
    count = keys.numel()
    position_bits = count.bit_length()
    if bound <= _MARKS_PER_KEY * count:
        return _by_marks(keys, bound)
    if count == 0 or (bound - 1).bit_length() + position_bits > _KEY_BITS:
        unique, inverse = torch.unique(keys, return_inverse=True)
        return unique, inverse.to(torch.int32)
    return _by_sort(keys, position_bits)


def _by_marks(keys: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """Mark each key that occurs, number the marked keys, and look up the numbers."""
    given = keys.numpy()
    marks = np.zeros(bound, dtype=bool)
    marks[given] = True
    unique = marks.nonzero()[0]
    rank = np.empty(bound, dtype=np.int32)
    rank[unique] = np.arange(unique.size, dtype=np.int32)
    return torch.from_numpy(unique), torch.from_numpy(rank.take(given))


def _by_sort(keys: Tensor, position_bits: int) -> tuple[Tensor, Tensor]:
    """Pack each key and its position into one number and sort the numbers.

    numpy's vectorized sort is several times faster than any argsort, and so brings the positions along."""
    packed = keys.numpy()
    packed <<= position_bits
    packed |= np.arange(packed.size)
    packed.sort()
    position = packed & ((1 << position_bits) - 1)
    packed >>= position_bits
    is_first = np.zeros(packed.size, dtype=bool)
    np.not_equal(packed[1:], packed[:-1], out=is_first[1:])
    # torch adds up and scatters in half of numpy's time; numpy selects in a fraction of torch's.
    rank = torch.cumsum(torch.from_numpy(is_first), 0, dtype=torch.int32)
    inverse = torch.empty_like(rank).scatter_(0, torch.from_numpy(position), rank)
    is_first[0] = True
    return torch.from_numpy(packed.compress(is_first)), inverse

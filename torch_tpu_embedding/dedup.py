"""Unique keys and the way back from each occurrence, by one sort of packed integers.

Letters: N ids, U unique rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_KEY_BITS = 63


def unique_inverse(keys: Tensor) -> tuple[Tensor, Tensor]:
    """What `torch.unique(keys, return_inverse=True)` gives, in about a third of its time.

    Key and place are packed into one number, so that numpy's vectorized sort, several times faster than any
    argsort, brings the places along.

    Args:
        keys: `[N]` int64, not negative; overwritten.

    Returns:
        `[U]` int64, rising, and `[N]` int32, the position in it of each key.
    """
    packed = keys.numpy()
    count = len(packed)
    place_bits = count.bit_length()
    if count == 0 or int(packed.max()) >> (_KEY_BITS - place_bits):
        unique, inverse = torch.unique(keys, return_inverse=True)
        return unique, inverse.to(torch.int32)
    packed <<= place_bits
    packed |= np.arange(count)
    packed.sort()
    place = packed & ((1 << place_bits) - 1)
    packed >>= place_bits
    is_first = np.empty(count, dtype=bool)
    is_first[0] = True
    np.not_equal(packed[1:], packed[:-1], out=is_first[1:])
    rank = np.cumsum(is_first, dtype=np.int32)
    rank -= 1
    inverse_of = np.empty(count, dtype=np.int32)
    inverse_of[place] = rank
    return torch.from_numpy(packed[is_first]), torch.from_numpy(inverse_of)

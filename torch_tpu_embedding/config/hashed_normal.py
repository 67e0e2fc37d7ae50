"""The default start values of a table: numbers of a cut normal, each by a hash of its own position.

Letters: D dim, n rows.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_HASHED_AT_ONCE = 1 << 16  # numbers: a few arrays of 8 bytes each stay in the processor's cache


def truncated_normal(ids: range, dim: int, key: str) -> Tensor:
    """Rows `[n, D]` of a normal with standard deviation 1/√D, cut at two deviations (TF's default).

    Element (id, column) is the normal's quantile at a hash of `key` and its number id · D + column:
    SplitMix64 (Steele, Lea, Flood 2014), which gives any element without those before it. So each
    process makes its own rows and no others.
    """
    out = np.empty(len(ids) * dim, dtype=np.float32)
    columns = np.arange(dim, dtype=np.uint64)
    step = max(_HASHED_AT_ONCE // dim, 1)
    for start in range(0, len(ids), step):
        some = ids[start : start + step]
        row = np.arange(some.start, some.stop, some.step, dtype=np.uint64)
        z = (row[:, None] * np.uint64(dim) + columns).reshape(-1)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed_of(key))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(factor)
        z ^= z >> np.uint64(31)
        # the upper 24 bits, as odd multiples of 2^-24 between -1 and 1
        z >>= np.uint64(40)
        out[start * dim : (start + len(some)) * dim] = z
    return _normal_of(out, dim)


def truncated_normal_by_id(ids: Tensor, dim: int, key: str) -> Tensor:
    """Rows `[n, D]` of the same normal for any int64 ids `[n]`: they depend on `key` and the id alone."""
    z = ids.numpy().view(np.uint64)[:, None] * np.uint64(0xD6E8FEB86659FD93)
    z = _split_mix(z + np.uint64(seed_of(f"{key}/id")))
    z = (z + np.arange(dim, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).reshape(-1)
    return _normal_of((_split_mix(z) >> np.uint64(40)).astype(np.float32), dim)


def seed_of(key: str) -> int:
    """A seed of 63 bits for a text."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _split_mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def _normal_of(bits: NDArray[np.float32], dim: int) -> Tensor:
    """Numbers of 24 bits as quantiles of the cut normal, `[n, D]`."""
    uniform = torch.from_numpy(bits).mul_(2.0).add_(1.0).mul_(2.0**-24).sub_(1.0)
    return uniform.mul_(math.erf(math.sqrt(2.0))).erfinv_().mul_(math.sqrt(2.0 / dim)).view(-1, dim)

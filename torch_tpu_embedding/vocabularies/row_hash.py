"""Rows by hash: the same int64 arithmetic on the host, on the CPU and in an exported program.

Letters: N ids, K hash functions, V vocabulary (rows).
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.vocabulary import HashedVocabulary

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def hashed_rows(ids: Tensor, vocabulary: HashedVocabulary, num_rows: int) -> Tensor:
    """The rows of each id, `[N, K]` int64 in [0, V).

    Row k of an id is (h >> 1) mod V, where h is SplitMix64's finalizer (Steele, Lea, Flood 2014) of
    id + c_k, and c_k the first eight bytes, little-endian, of SHA-256 of the text "<seed>/<k>".

    Args:
        ids: `[N]` int64, any.
        num_rows: V.
    """
    starts = [_start(vocabulary.seed, number) for number in range(vocabulary.hash_functions)]
    columns = [_mixed(ids + start) % num_rows for start in starts]
    return torch.stack(columns, 1)


def shared_rows(ids: Tensor, num_rows: int) -> Tensor:
    """The row of each id that has none of its own, `[…]` int64 in [0, O): the upper half of a hash, scaled.

    Args:
        ids: `[…]` int64, any.
        num_rows: O, at most 2^30.
    """
    h = ids * _signed(_GOLDEN)
    h = (h ^ _shifted(h, 32)) * _signed(_GOLDEN)
    return _shifted(h, 32) * num_rows >> 32


def shared_rows_of_array(ids: NDArray[np.int64], num_rows: int) -> NDArray[np.int32]:
    """The same as `shared_rows`, `[N]`, for arrays of numpy, in less time."""
    h = ids.view(np.uint64) * np.uint64(_GOLDEN)
    h ^= h >> np.uint64(32)
    h *= np.uint64(_GOLDEN)
    h >>= np.uint64(32)
    h *= np.uint64(num_rows)
    h >>= np.uint64(32)
    return h.astype(np.int32)


def _mixed(h: Tensor) -> Tensor:
    """SplitMix64's finalizer without its lowest bit: 63 bits, so that signed division gives the row."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        h = (h ^ _shifted(h, shift)) * _signed(factor)
    return _shifted(h ^ _shifted(h, 31), 1)


def _shifted(h: Tensor, bits: int) -> Tensor:
    """h >> bits as of unsigned numbers, which torch's shift of int64 is not."""
    return (h >> bits) & ((1 << (64 - bits)) - 1)


@functools.cache
def _start(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return _signed(int.from_bytes(digest[:8], "little"))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number

"""XXH64 of many byte strings at once, in numpy.

After the specification of xxHash (Y. Collet, "XXH fast digest algorithm", doc/xxhash_spec.md, 0.1.1): the
numbers are those of every implementation of XXH64. Strings of one length are hashed together, so the time
follows from the number of bytes and of different lengths. Letters: n strings, m bytes of each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
_STRIPE = 32
_HASHED_AT_ONCE = 1 << 20  # bytes, so that a long list needs little memory


def xxh64(data: bytes, lengths: NDArray[np.int64], seed: int) -> Words:
    """The XXH64 of each string `[n]`.

    Args:
        data: all strings, one after another.
        lengths: `[n]`, bytes of each; they add up to those of `data`.
        seed: in [0, 2^64).
    """
    held = np.frombuffer(data, np.uint8)
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(lengths, kind="stable")
    rising = lengths[order]
    ends = [*np.flatnonzero(np.diff(rising)) + 1, len(rising)] if len(rising) else []
    found = np.empty(len(lengths), np.uint64)
    first = 0
    for end in ends:
        length = int(rising[first])
        step = max(_HASHED_AT_ONCE // max(length, 1), 1)
        for begin in range(first, end, step):
            some = order[begin : min(begin + step, end)]
            rows = held[starts[some, None] + np.arange(length)]
            found[some] = _of_one_length(rows, np.uint64(seed))
        first = end
    return found


def _of_one_length(rows: NDArray[np.uint8], seed: np.uint64) -> Words:
    """The hash of each row of bytes `[n, m]`."""
    count, length = rows.shape
    at = length // _STRIPE * _STRIPE
    with np.errstate(over="ignore"):
        whole = rows[:, :at]
        h = _stripes(_words(whole, "<u8"), seed) if at else np.full(count, seed + _P5)
        h += np.uint64(length)
        while at + 8 <= length:
            h ^= _round(np.zeros_like(h), _words(rows[:, at : at + 8], "<u8")[:, 0])
            h = _rotated(h, 27) * _P1 + _P4
            at += 8
        if at + 4 <= length:
            h ^= _words(rows[:, at : at + 4], "<u4")[:, 0] * _P1
            h = _rotated(h, 23) * _P2 + _P3
            at += 4
        for column in range(at, length):
            h ^= rows[:, column].astype(np.uint64) * _P5
            h = _rotated(h, 11) * _P1
        h ^= h >> np.uint64(33)
        h *= _P2
        h ^= h >> np.uint64(29)
        h *= _P3
        h ^= h >> np.uint64(32)
    return h


def _stripes(words: Words, seed: np.uint64) -> Words:
    """The four accumulators over whole stripes of 32 bytes, in one; `words` is `[n, 4 · stripes]`."""
    count = len(words)
    starts = (seed + _P1 + _P2, seed + _P2, seed, seed - _P1)
    lanes = [np.full(count, start) for start in starts]
    for first in range(0, words.shape[1], 4):
        lanes = [_round(lane, words[:, first + number]) for number, lane in enumerate(lanes)]
    h: Words = sum(
        (_rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)),
        start=np.zeros(count, np.uint64),
    )
    for lane in lanes:
        h = (h ^ _round(np.zeros_like(lane), lane)) * _P1 + _P4
    return h


def _words(rows: NDArray[np.uint8], kind: str) -> Words:
    """Little-endian words of the bytes of each row, as 64-bit numbers."""
    return np.ascontiguousarray(rows).view(kind).astype(np.uint64)


def _round(lane: Words, word: Words) -> Words:
    return _rotated(lane + word * _P2, 31) * _P1


def _rotated(h: Words, bits: int) -> Words:
    return (h << np.uint64(bits)) | (h >> np.uint64(64 - bits))

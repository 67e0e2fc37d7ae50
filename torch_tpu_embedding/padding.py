"""Padded sizes that rarely change, for each of them is a program of its own."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import zip_longest

logger = logging.getLogger(__name__)

_ROUND = 8


@dataclass(frozen=True)
class Headroom:
    """How much larger than the batch that made it grow a bucket is."""

    ladder: float
    """Ratio of neighbouring sizes."""
    share: float
    deviations: float
    """Of a count that scatters like a Poisson one; for small batches, lest chance alone make it grow."""


ROWS = Headroom(2**0.0625, 1 / 16, 4.0)
"""For unique rows, each of which costs several passes over its record."""
RAGGED = Headroom(2**0.0625, 1 / 16, 6.0)
"""For ids of bags of any length: their number scatters more than that of single ids does."""
TRAFFIC = Headroom(2**0.0625, 1 / 32, 2.0)
"""For sizes that cost bytes between devices; each is the largest of many, which scatters less."""


class Bucket:
    """A padded size that only grows, in geometric steps; each growth means one compile.

    >>> bucket = Bucket("ids of table 'user'")
    >>> bucket.fit(100), bucket.fit(90), bucket.fit(140), bucket.fit(200)
    (152, 152, 152, 272)
    """

    def __init__(self, what: str, headroom: Headroom = ROWS) -> None:
        self.what = what
        self.size = 0
        self._headroom = headroom

    def fit(self, count: int, limit: int | None = None) -> int:
        """The padded size for `count` items, of which there can never be more than `limit`."""
        if count > self.size:
            room = self._headroom
            wanted = count + max(room.share * count, room.deviations * math.sqrt(count))
            size = float(_ROUND)
            while size < wanted:
                size *= room.ladder
            grown = -(-int(size) // _ROUND) * _ROUND
            if limit is not None:
                grown = max(min(grown, -(-limit // _ROUND) * _ROUND), count)
            level = logging.INFO if self.size else logging.DEBUG
            logger.log(level, "bucket for %s grows from %d to %d", self.what, self.size, grown)
            self.size = grown
        return self.size


class StackPadding:
    """The padded sizes of one stack."""

    def __init__(self, what: str) -> None:
        self.unique = Bucket(f"unique rows of {what}")
        self.ragged = Bucket(f"ids of {what}", RAGGED)
        self.block = Bucket(f"rows of {what} exchanged by two devices", TRAFFIC)
        self.chunks: list[int] = []
        """Of the chunks of occurrences (`occurrences.py`)."""

    def adopt(self, other: StackPadding) -> None:
        """Be at least as large as another one of the same stack, lest its programs be compiled anew."""
        for mine, its in zip(self._buckets, other._buckets, strict=True):
            mine.size = max(mine.size, its.size)
        pairs = zip_longest(self.chunks, other.chunks, fillvalue=0)
        self.chunks[:] = [max(pair) for pair in pairs]

    @property
    def _buckets(self) -> tuple[Bucket, ...]:
        return self.unique, self.ragged, self.block

"""Padded sizes that rarely change, for each of them is a program of its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

logger = logging.getLogger(__name__)

_ROUND = 8
_WINDOW = 256
"""Batches after which it is seen whether a size is too large."""
_TOO_LARGE = 2.0
"""Times what the batches of a window would have been padded to: less is not worth a compile."""
_MOST_FALLS = 8
"""So many compiles a size may cost beyond those of its growth."""


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


class PaddedSize:
    """A padded size that grows in geometric steps; each change means one compile.

    One batch of an exceptional size would cost every later step its padding. So a size that no batch of a
    window has come near may fall again, a bounded number of times: the bucket *wishes* so, and falls with
    `settle`, which is told the greatest wish of all processes.

    >>> bucket = PaddedSize("ids of table 'user'")
    >>> bucket.fit(100), bucket.fit(90), bucket.fit(140), bucket.fit(200)
    (152, 152, 152, 272)
    """

    def __init__(self, what: str, headroom: Headroom = ROWS) -> None:
        self.what = what
        self.size = 0
        self.wish = 0
        """The size that would do, as far as is known here."""
        self._headroom = headroom
        self._began = 0
        """The size that was adopted."""
        self._most = 0
        self._batches = 0
        self._falls = 0

    def fit(self, count: int, limit: int | None = None) -> int:
        """The padded size for `count` items, of which there can never be more than `limit`."""
        if count > self.size:
            grown = self._padded(count, limit)
            level = logging.INFO if self.size else logging.DEBUG
            logger.log(level, "bucket for %s grows from %d to %d", self.what, self.size, grown)
            self.size = self.wish = grown
        self._most = max(self._most, count)
        self._batches += 1
        if self._batches == _WINDOW:
            enough = self._padded(self._most, limit)
            is_worth_it = self.size >= _TOO_LARGE * enough and self._falls < _MOST_FALLS
            self.wish = enough if is_worth_it else self.size
            self._most = self._batches = 0
        return self.size

    def settle(self, size: int) -> None:
        """Be of this size from now on, the greatest that a process wishes."""
        if size < self.size:
            text = "bucket for %s falls from %d to %d: no batch of %d needed more"
            logger.info(text, self.what, self.size, size, _WINDOW)
            self._falls += 1
        self.size = size
        self.wish = min(self.wish, size)

    def adopt(self, other: PaddedSize) -> None:
        """Follow another one that began as this one is now, or else be no smaller than it."""
        if other._began == self.size:
            self.size, self.wish = other.size, other.wish
        else:
            self.size = self.wish = max(self.size, other.size)
        self._began = self.size
        self._falls = max(self._falls, other._falls)
        self._most, self._batches = other._most, other._batches

    def _padded(self, count: int, limit: int | None) -> int:
        room = self._headroom
        wanted = count + max(room.share * count, room.deviations * math.sqrt(count))
        size = float(_ROUND)
        while size < wanted:
            size *= room.ladder
        padded = -(-int(size) // _ROUND) * _ROUND
        if limit is not None:
            padded = max(min(padded, -(-limit // _ROUND) * _ROUND), count)
        return padded


class StackPadding:
    """The padded sizes of one stack."""

    def __init__(self, what: str) -> None:
        self.unique = PaddedSize(f"unique rows of {what}")
        self.ragged = PaddedSize(f"ids of {what}", RAGGED)
        self.positions_per_device = PaddedSize(f"rows of {what} exchanged by two devices", TRAFFIC)
        self.chunks: list[int] = []
        """Of the chunks of occurrences (`occurrences.py`)."""

    def adopt(self, other: StackPadding) -> None:
        """Take over the sizes of another one of the same stack, lest its programs be compiled anew."""
        for mine, its in zip(self._buckets, other._buckets, strict=True):
            mine.adopt(its)
        pairs = zip_longest(self.chunks, other.chunks, fillvalue=0)
        self.chunks[:] = [max(pair) for pair in pairs]

    @property
    def wishes(self) -> list[int]:
        """The sizes that would do, as far as is known here."""
        return [each.wish for each in self._buckets]

    def settle(self, sizes: Sequence[int]) -> None:
        """Take the greatest of what the processes wish."""
        for each, size in zip(self._buckets, sizes, strict=True):
            each.settle(size)

    @property
    def _buckets(self) -> tuple[PaddedSize, ...]:
        return self.unique, self.ragged, self.positions_per_device

"""Padded sizes, which rarely change: each new size costs the compilation of another program."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

logger = logging.getLogger(__name__)

_ROUND = 8
_WINDOW = 256
"""The number of batches after which a size is checked for being too large."""
_TOO_LARGE = 2.0
"""A size falls if it is at least this multiple of the size that its window needed: less is not worth a
compile."""
_MOST_FALLS = 8
"""The most compiles that one size may cost by falling."""


@dataclass(frozen=True)
class Headroom:
    """The room that a padded size leaves above the count that made it grow."""

    ladder: float
    """Ratio of neighbouring sizes."""
    share: float
    """Room as a share of the count."""
    deviations: float
    """Room in standard deviations of a Poisson count, so that small batches do not make it grow by
    chance."""


ROWS = Headroom(2**0.0625, 1 / 16, 4.0)
"""Headroom for unique rows, each of which costs several passes over its record."""
RAGGED = Headroom(2**0.0625, 1 / 16, 6.0)
"""Headroom for ids of ragged bags, whose number scatters more than that of single ids."""
TRAFFIC = Headroom(2**0.0625, 1 / 32, 2.0)
"""Headroom for sizes that cost bytes between devices; each is the largest of many, which scatters less."""


class PaddedSize:
    """A padded size that grows in geometric steps; each change means one compile.

    One batch of an exceptional size would cost every later step its padding. So a size that no batch of a
    window has come near may fall again, a bounded number of times: the process *wishes* a smaller size, and
    `take_agreed` is given the greatest wish of all processes.

    >>> size = PaddedSize("ids of table 'user'")
    >>> size.fit(100), size.fit(90), size.fit(140), size.fit(200)
    (152, 152, 152, 272)
    """

    def __init__(self, what: str, headroom: Headroom = ROWS) -> None:
        self.what = what
        self.size = 0
        self.wish = 0
        """The size that is enough for the batches of this process."""
        self._headroom = headroom
        self._began = 0
        """The size when `adopt` was last called."""
        self._most = 0
        self._batches = 0
        self._falls = 0

    def fit(self, count: int, limit: int | None = None) -> int:
        """The padded size for `count` items, of which there can never be more than `limit`."""
        if count > self.size:
            grown = self._padded(count, limit)
            level = logging.INFO if self.size else logging.DEBUG
            logger.log(level, "padded size for %s grows from %d to %d", self.what, self.size, grown)
            self.size = self.wish = grown
        self._most = max(self._most, count)
        self._batches += 1
        if self._batches == _WINDOW:
            enough = self._padded(self._most, limit)
            is_worth_it = self.size >= _TOO_LARGE * enough and self._falls < _MOST_FALLS
            self.wish = enough if is_worth_it else self.size
            self._most = self._batches = 0
        return self.size

    def take_agreed(self, size: int) -> None:
        """Take the size on which all processes agree, the greatest of their wishes."""
        if size < self.size:
            text = "padded size for %s falls from %d to %d: no batch of %d needed more"
            logger.info(text, self.what, self.size, size, _WINDOW)
            self._falls += 1
        self.size = size
        self.wish = min(self.wish, size)

    def adopt(self, other: PaddedSize) -> None:
        """Take the size of `other` if that began with this size, else the larger of the two."""
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
        self.round_batches: list[int] = []
        """The padded rows of the first, second, … round batch (`occurrences.py`)."""

    def adopt(self, other: StackPadding) -> None:
        """Take over another padding of the same stack, so that its programs are not compiled again."""
        for mine, its in zip(self._sizes, other._sizes, strict=True):
            mine.adopt(its)
        pairs = zip_longest(self.round_batches, other.round_batches, fillvalue=0)
        self.round_batches[:] = [max(pair) for pair in pairs]

    @property
    def wishes(self) -> list[int]:
        """The sizes that are enough for the batches of this process."""
        return [each.wish for each in self._sizes]

    def take_agreed(self, sizes: Sequence[int]) -> None:
        """Take the sizes on which all processes agree, the greatest of their wishes."""
        for each, size in zip(self._sizes, sizes, strict=True):
            each.take_agreed(size)

    @property
    def _sizes(self) -> tuple[PaddedSize, ...]:
        return self.unique, self.ragged, self.positions_per_device

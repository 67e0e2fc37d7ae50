"""When a row was last used, and how often, in one number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Packed = NDArray[np.int64]

_LOW = np.int64((1 << 32) - 1)


class UseForm:
    """How the last use and the frequency of a row lie in a number of 64 bits, each in a half of it.

    The upper half is what the rule of eviction looks at first: so the numbers themselves are in the order
    in which 'lfu' takes rows, and one read and one write of a row note a use of it.

    Args:
        by_frequency: True for 'lfu'; otherwise the last use is the upper half, and no use adds to the
            frequency.
    """

    def __init__(self, by_frequency: bool) -> None:
        self._by_frequency = by_frequency

    def pack(self, last_used: NDArray[np.integer[Any]], count: NDArray[np.integer[Any]]) -> Packed:
        """The numbers of rows of these last uses and frequencies."""
        upper, lower = (count, last_used) if self._by_frequency else (last_used, count)
        return (upper.astype(np.int64) << 32) | lower.astype(np.int64)

    def last_used(self, packed: Packed) -> NDArray[np.int64]:
        """The last uses in some numbers."""
        return packed & _LOW if self._by_frequency else packed >> 32

    def used_before(self, packed: Packed, clock: int) -> NDArray[np.bool_]:
        """True where the last use is before a clock."""
        if self._by_frequency:
            return (packed & _LOW) < clock
        return packed < clock << 32

    def count(self, packed: Packed) -> NDArray[np.int64]:
        """The frequencies in some numbers."""
        return packed >> 32 if self._by_frequency else packed & _LOW

    def keys(self, packed: Packed) -> NDArray[np.int64]:
        """The keys by which the rule of eviction takes rows, the lowest first."""
        return packed if self._by_frequency else packed >> 32

    def last_of_key(self, packed: int) -> int:
        """The highest number that has the same key as this one."""
        return packed if self._by_frequency else packed | int(_LOW)

    def used_at(self, packed: Packed, clock: int) -> Packed:
        """The numbers of the same rows after a batch has used them."""
        if self._by_frequency:
            packed = packed >> 32
            packed += 1
            packed <<= 32
            packed |= clock
        else:
            packed = packed & _LOW
            packed |= clock << 32
        return packed

    def first_use(self, clock: int) -> int:
        """The number of a row that an id was given now."""
        return (1 << 32 | clock) if self._by_frequency else (clock << 32 | 1)

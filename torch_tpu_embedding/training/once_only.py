"""Batches that can be iterated once and no more, such as those of a generator."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator

from ..io.warn import warn_caller


class OnceOnly:
    """Tells an epoch without a batch that comes of an iterator at its end from one of data that is empty.

    Args:
        batches: of an `EmbeddingLoader`; all but iterators may be iterated as often as one likes.
    """

    def __init__(self, batches: object) -> None:
        self._batches = batches
        self._begun = 0
        self._at_end = False

    def begin(self) -> None:
        """Take note that an iteration begins; warn if a generator goes on that a loop has left."""
        self._begun += 1
        if not isinstance(self._batches, types.GeneratorType):
            return
        self._at_end = inspect.getgeneratorstate(self._batches) == inspect.GEN_CLOSED
        if self._begun == 2 and not self._at_end:
            warn_caller(
                "EmbeddingLoader: batches is a generator, and this loop goes on where the thread of the "
                "last one has stopped: batches that it had drawn ahead are lost, and state_dict counts "
                "from here. Go on with one iterator, next(iterator), or give an iterable that begins anew, "
                "such as a DataLoader (this is said once)"
            )

    def check(self) -> None:
        """Raise RuntimeError if an iteration without a batch is none because the iterator is at its end."""
        again = self._begun > 1 and isinstance(self._batches, Iterator)
        if again or self._at_end:
            raise RuntimeError(
                f"EmbeddingLoader: batches, a {type(self._batches).__name__}, is at its end and gives no "
                "batch: it can be iterated only once. For several epochs give an iterable that begins "
                "anew (a DataLoader, a list, an object whose __iter__ makes the generator), or make a "
                "loader of a new one for each epoch"
            )

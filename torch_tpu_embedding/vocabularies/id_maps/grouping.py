"""The distinct ids among those of a batch, and the way back from each id to them.

Letter: N ids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .id_index import Ids


def grouped(
    ids: Ids, occurrences: NDArray[np.int64] | None
) -> tuple[Ids, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct ids, rising; an order in which ids rise; the number of each distinct one in that order;
    and how often each is there.

    Args:
        occurrences: `[N]`: the times that each counts; None for once.
    """
    order = np.argsort(ids)
    rising = ids.take(order)
    is_first = np.ones(len(ids), np.bool_)
    np.not_equal(rising[1:], rising[:-1], out=is_first[1:])
    firsts = np.flatnonzero(is_first)
    number = np.cumsum(is_first) - 1
    if occurrences is None:
        times = np.diff(firsts, append=len(ids))
    else:
        times = np.add.reduceat(occurrences.take(order), firsts)
    return rising.take(firsts), order, number, times

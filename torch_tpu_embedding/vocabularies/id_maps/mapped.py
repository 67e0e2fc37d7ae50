"""The rows that an update of a map gives to the ids of a batch, and what it did for them.

Letters: N ids of a batch, n new rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .id_index import Ids, Rows
from .journal import Journal

Numbers = NDArray[np.int32] | NDArray[np.int64]
"""Numbers of rows in the whole table."""


@dataclass(frozen=True)
class Mapped:
    """The rows of one training batch."""

    rows: Numbers
    """`[N]`: the row of each id in the table."""
    new_rows: Rows
    """`[n]`: the rows of the map that ids were given in this batch, rising; each starts anew."""
    new_ids: Ids
    """`[n]`: their ids."""
    evicted: int
    """The number of ids that lost their rows to these."""
    expired: int
    """The number of ids that lost their rows by max_age."""
    turned_away: int
    """The number of admitted ids that found no row free."""
    shared: int
    """The number of occurrences of ids without a row of their own."""
    journal: Journal = field(repr=False)
    """The record by which `IdMap.take_back` undoes the update."""

"""The largest tables that a device can number."""

from __future__ import annotations

from ..config.resolved import Table
from ..distributed.placement import Placement

MAX_RECORDS = 2**31 - 8  # record numbers are int32 on the device


def check_sizes(tables: tuple[Table, ...], placement: Placement) -> None:
    """Raise ValueError if a table has more rows on one device than int32 can number."""
    for table in tables:
        rows = placement.capacity(table.vocabulary_size)
        if rows > MAX_RECORDS:
            raise ValueError(
                f"table {table.name!r}: {rows} of its {table.vocabulary_size} rows on one device are more "
                f"than it can number ({MAX_RECORDS}); split the table, or use more devices"
            )

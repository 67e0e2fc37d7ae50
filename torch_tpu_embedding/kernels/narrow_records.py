"""Records that share physical rows: their new values merged, so that each row is written once.

Letters: U unique records, W lanes of a record.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def merge_into_rows(
    rows: Tensor, row: Tensor, position: Tensor, records: Tensor
) -> tuple[Tensor, Tensor]:
    """Put the new records of each physical row into it.

    The records of a row follow each other. A record takes over what the one before it has collected, then
    what the one two positions before it has, then four: after log2(128 / W) passes the last record of each
    row has all of it. Lanes are selected and nothing is added, so every bit is kept.

    Args:
        rows: `[U, 128]`, the row of each record as it is.
        row: `[U]` int32, the number of that row, rising; negative, and after all others, for padding.
        position: `[U]` int32, the position of each record in its row.
        records: `[U, W]`, the new records.

    Returns:
        `[U]` int32, the number of each row at its last record, and -1 at the others; `[U, 128]`, the new
        rows, whole at the last records.
    """
    width, lanes = records.shape[1], rows.shape[1]
    per_row = lanes // width
    positions = torch.arange(per_row, dtype=torch.int32, device=rows.device)
    known = position[:, None] == positions
    merged = torch.where(known[:, :, None], records[:, None, :], rows.view(-1, per_row, width))
    distance = 1
    while distance < per_row:
        same_row = _later(row, distance, -1) == row
        found = _later(known, distance, False) & same_row[:, None]
        merged = torch.where(found[:, :, None], _later(merged, distance, 0.0), merged)
        known = known | found
        distance *= 2
    is_last = row != pad(row[1:], (0, 1), value=-1)
    return torch.where(is_last, row, -1), merged.reshape(-1, lanes)


def _later(values: Tensor, distance: int, blank: float) -> Tensor:
    """The value `distance` positions before each one; `blank` for the first ones."""
    count = max(values.shape[0] - distance, 0)
    front = values.new_full((values.shape[0] - count, *values.shape[1:]), blank)
    return torch.cat([front, values[:count]])

"""Start values of rows that ids are given while a table trains.

Letters: D dim, n rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.hashed_normal import truncated_normal_by_id
from ..config.resolved import Table
from ..runtime import host


def start_values_by_id(table: Table, ids: Tensor, key: str) -> Tensor:
    """Start values `[n, D]` of rows that are given to these ids: they depend on key and id alone."""
    initializer = table.config.initializer
    if initializer is not None:
        filled = 0.0 if initializer in (torch.zeros, torch.nn.init.zeros_) else 1.0
        return host.empty(len(ids), table.dim).fill_(filled)
    return truncated_normal_by_id(ids, table.dim, key)

"""The state of a map as one tensor, for state dicts, whose formats often take tensors alone.

Letter: n ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_COLUMNS = ("ids", "rows", "last_used", "count")


def packed_map(state: Mapping[str, Any]) -> Tensor:
    """`[n + 1, 4]` int64: the clock and three zeros, then id, row, last use and frequency of each id.

    The counts of ids without a row stay out of it.
    """
    head = np.array([[state["clock"], 0, 0, 0]], np.int64)
    columns = np.stack([state[name].astype(np.int64) for name in _COLUMNS], 1)
    return torch.from_numpy(np.concatenate([head, columns]))


def unpacked_map(value: object) -> dict[str, Any]:
    """The state that `packed_map` was given.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        raise TypeError("expected an int64 tensor [ids + 1, 4]")
    if value.dim() != 2 or value.shape[1] != len(_COLUMNS) or not len(value):
        raise ValueError(f"expected shape [ids + 1, 4], got {[*value.shape]}")
    columns = value.detach().cpu().numpy()
    state: dict[str, Any] = {name: columns[1:, at] for at, name in enumerate(_COLUMNS)}
    return {
        **state,
        "clock": int(columns[0, 0]),
        "sightings": 0,
        "sketch": np.zeros((2, 0), np.uint8),
    }

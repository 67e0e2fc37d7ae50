"""The map from ids to rows of a served table, in torch alone.

Letters: N ids, n ids that have a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..vocabularies.row_hash import shared_rows


class ServedMap(nn.Module):
    """Finds the row of any int64 id: by bisection among those that have one, else a shared row by hash.

    Args:
        state: as `IdMap.state` gives it.
        oov_rows: the number of shared rows.
    """

    ids: Tensor
    rows: Tensor

    def __init__(self, state: Mapping[str, Any], oov_rows: int) -> None:
        super().__init__()
        ids, order = torch.from_numpy(state["ids"]).sort()
        rows = torch.from_numpy(state["rows"]).to(torch.int64)[order]
        if not len(ids):  # bisection wants one: any id, with the row that it has as an unknown one
            ids = torch.zeros(1, dtype=torch.int64, device="cpu")
            rows = shared_rows(ids, oov_rows)
        self.register_buffer("ids", ids)
        self.register_buffer("rows", rows)
        self._oov_rows = oov_rows

    def forward(self, ids: Tensor) -> Tensor:
        """The row of each id, `[…]` int64."""
        at = torch.searchsorted(self.ids, ids.contiguous()).clamp(max=self.ids.shape[0] - 1)
        return torch.where(self.ids[at] == ids, self.rows[at], shared_rows(ids, self._oov_rows))

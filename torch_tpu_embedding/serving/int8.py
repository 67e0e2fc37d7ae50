"""Tables for serving in a quarter of the bytes: rows of 8-bit codes, each with a scale and an offset.

Letters: N ids, V vocabulary, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_DIM = 3
"""The narrowest table that gets smaller: a row takes D + 8 bytes in place of 4 D."""

BLOCK_ROWS = 16_384
"""Rows that are quantized at a time: the arithmetic is in float64, and a table may fill the memory."""


class Int8Embedding(nn.Module):
    """An embedding table whose row i is `codes[i] · scale[i] + offset[i]`.

    Scale and offset span each row from its least to its greatest value in 255 steps (FBGEMM's row-wise
    8-bit format, with signed codes). A value is off by at most half the row's scale, which is
    (max − min) / 510, plus the float32 rounding of the sum: 2⁻²² times the largest magnitude of the row.
    So a sum of rows with weights w is off by at most Σ |w| · scale / 2 and that rounding. A row whose
    values are all alike is exact.

    Args:
        weight: `[V, D]`, float32, on the CPU; it is not changed.
        name: the table's name, for messages.

    Attributes:
        codes: `[V, D]`, int8.
        scale: `[V]`, float32; 0 for a row whose values are all alike.
        offset: `[V]`, float32; the value of code 0.

    Raises:
        ValueError: a value is nan or infinite.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, weight: Tensor, name: str) -> None:
        super().__init__()
        rows, device = len(weight), weight.device
        self.register_buffer("codes", torch.empty(weight.shape, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.empty(rows, dtype=torch.float32, device=device))
        self.register_buffer("offset", torch.empty(rows, dtype=torch.float32, device=device))
        for start in range(0, rows, BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            parts = _quantized(weight[block], name, start)
            self.codes[block], self.scale[block], self.offset[block] = parts

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of ids, in float32.

        Args:
            ids: any shape `[…]`, in [0, V).

        Returns:
            `[…, D]`.
        """
        codes = self.codes[ids].to(torch.float32)
        return codes * self.scale[ids][..., None] + self.offset[ids][..., None]


def _quantized(weight: Tensor, name: str, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale and offset of some rows, of which the first has the id `start`."""
    finite = weight.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0])
        column = int((~weight[row].isfinite()).nonzero()[0, 0])
        raise ValueError(
            f"export_serving: table {name!r} cannot become int8: row {start + row}, column {column} is "
            f"{float(weight[row, column])}; mend the row with write_rows, or export without quantize"
        )
    exact = weight.to(torch.float64)
    low, high = exact.amin(1), exact.amax(1)
    scale = ((high - low) / 255).to(torch.float32)
    offset = (low + 128 * ((high - low) / 255)).to(torch.float32)
    offset = torch.where(scale == 0, low.to(torch.float32), offset)
    # Codes are for the scale and offset as they were rounded: the errors do not add up.
    steps = (exact - offset.to(torch.float64)[:, None]) / scale.to(torch.float64)[:, None]
    codes = torch.where(scale[:, None] == 0, 0.0, steps.round().clamp(-128, 127))
    return codes.to(torch.int8), scale, offset

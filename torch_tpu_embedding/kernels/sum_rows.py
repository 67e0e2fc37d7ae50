"""Sums of the rows of lookups by segment: those of a bag, or the gradients of an id.

A kernel does it where rows and sums fit into the on-chip memory of a TPU; else, and on every other device,
XLA or plain torch do: a gather and a scatter-add, which is what the kernel's result is compared with. Its
source is `scripts/support/kernels/sums.py`.
Letters: R rows, N lookups, S segments, D dim.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..runtime import is_accelerated
from ..runtime.torch_xla.device import call
from ..tables.record_shapes import LANES
from .hlo_module import Array
from .kernel_text import computation, template
from .write_rows import BLOCK

TILE = 8
"""Rows of a tile of on-chip memory."""
_ON_CHIP = 12 << 20
"""Bytes of rows and sums, of the 16 MiB that every generation of TPU grants a kernel."""
FEWEST_LOOKUPS = 8 * BLOCK
"""With fewer lookups a step on v4 costs more with the kernel than with XLA's gather and scatter-add."""
DIMS = range(32, 2 * LANES + 1)
"""The D that the kernel takes. XLA keeps narrower rows in columns; to turn them for the kernel costs more
on v4 than the kernel saves. Wider ones nobody has compared."""


def fits_kernel(rows: int, lookups: int, segments: int, dim: int) -> bool:
    """True if the kernel can sum, and has enough to do to be worth the rows that it brings on the chip.

    Args:
        rows: R. lookups: N. segments: S. dim: D.
    """
    if dim not in DIMS:
        return False
    on_chip = (rows + segments + 2 * TILE) * -(-dim // LANES) * LANES * 4
    return on_chip <= _ON_CHIP and lookups >= max(rows + segments, FEWEST_LOOKUPS)


def sum_rows(
    rows: Tensor, source: Tensor, segment: Tensor, gain: Tensor, segments: int, by_kernel: bool
) -> Tensor:
    """The sums `[S, D]` of `gain[n] * rows[source[n]]` over the lookups n of each segment.

    Args:
        rows: `[R, D]` float32.
        source: `[N]` int32, the row of each lookup.
        segment: `[N]` int32, its segment.
        gain: `[N, 1]` float32.
        segments: S.
        by_kernel: True if a kernel may do it on a TPU, where the sizes fit.
    """
    if by_kernel and is_accelerated(rows.device):
        found = _operation(len(source), *rows.shape, _filled(segments))
        return call(found, "sum_rows", [source, segment, gain.view(-1), rows])[:segments]
    weighted = rows.index_select(0, source) * gain
    sums = torch.zeros(segments, rows.shape[1], dtype=rows.dtype, device=rows.device)
    return sums.index_add(0, segment, weighted)


def _filled(segments: int) -> int:
    """Segments of the kernel, in whole tiles."""
    return -(-segments // TILE) * TILE


@cache
def _operation(lookups: int, rows: int, dim: int, segments: int) -> Any:
    """The computation that torch_xla calls, for one set of sizes."""
    numbers = Array((lookups,), torch.int32)
    operands = [numbers, numbers, Array((lookups,)), Array((rows, dim))]
    text = kernel_text(lookups, rows, segments, dim)
    return computation("sum_rows", text, operands, Array((segments, dim)))


def kernel_text(lookups: int, rows: int, segments: int, dim: int) -> str:
    """The kernel in Mosaic, for one set of sizes.

    Args:
        lookups: N.
        rows: R.
        segments: S, in whole tiles.
        dim: D.
    """
    return template("sum_rows").substitute(
        lookups=lookups,
        rows=rows,
        segments=segments,
        dim=dim,
        tiles=segments // TILE,
        blocks=-(-lookups // BLOCK),
    )

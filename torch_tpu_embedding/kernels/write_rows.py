"""Rows written into an array in place by kernels that start one copy (DMA) for each record.

On an eager device plain torch does the same. Both kernels check on the chip that each row lies in the
array, and halt the program if one does not. Their source is `scripts/support/kernels/source.py`.
Letters: U unique records, V records of an array.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..runtime import is_accelerated
from ..runtime.torch_xla.device import call
from ..tables.record_shapes import LANES
from .hlo_module import Array
from .kernel_text import computation, template

BLOCK = 1024
"""Records that one program of a kernel's grid writes; the programs share the cores of a chip."""
CHUNK = 256
"""Records whose copies a program waits for together."""
UNROLL = 8
"""Copies that it starts in one trip of a loop."""
FEWEST_MARKED_ROWS = BLOCK
"""Records that share rows for which a kernel is worth it: it goes through a whole block however few."""
ROWS_A_RECORD = 8
"""Rows of an array for each record written, at least: if there are fewer, XLA sorts, and costs less."""


def write_records(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    """Write the first `count` records, in place: record `record[i]` gets the rows `values[i]`.

    Args:
        array: `[V * k, 128]`, k consecutive rows for each record; changed.
        record: `[U]` int32, the first `count` of them distinct and in [0, V).
        values: `[U, k * 128]`.
        count: `[1]` int32, at most U.
    """
    rows = values.shape[1] // LANES
    if not is_accelerated(array.device):
        written = int(count)
        array.view(-1, rows * LANES)[record[:written].long()] = values[:written]
        return
    found = _operation("write_records", array.shape[0], len(record), rows, len(values) * rows)
    # fewer numbers than a block XLA keeps in smaller tiles, which the kernel cannot read
    record = pad(record, (0, max(BLOCK - len(record), 0)))
    operands = [count, record, values.reshape(-1, LANES), array]
    array.copy_(call(found, "write_records", operands))


def write_marked_rows(array: Tensor, row: Tensor, values: Tensor) -> None:
    """Write the rows whose number is not negative, in place: row `row[i]` gets `values[i]`.

    Args:
        array: `[rows, 128]`; changed.
        row: `[U]` int32; the numbers that are not negative are distinct.
        values: `[U, 128]`.
    """
    if not is_accelerated(array.device):
        array[row[row >= 0].long()] = values[row >= 0]
        return
    row = pad(row, (0, -len(row) % BLOCK), value=-1)
    found = _operation("write_marked_rows", array.shape[0], len(row), 1, len(values))
    array.copy_(call(found, "write_marked_rows", [row, values, array]))


@cache
def _operation(name: str, array_rows: int, records: int, rows: int, num_values: int) -> Any:
    """The computation that torch_xla calls, for one set of sizes."""
    array, values = Array((array_rows, LANES)), Array((num_values, LANES))
    operands = [Array((max(records, BLOCK),), torch.int32), values, array]
    if name == "write_records":
        operands.insert(0, Array((1,), torch.int32))
    text = kernel_text(name, array_rows, records, rows)
    return computation(name, text, operands, array, alias=len(operands) - 1)


def kernel_text(name: str, array_rows: int, records: int, rows: int) -> str:
    """A kernel in Mosaic, for one set of sizes.

    Args:
        name: of the file.
        array_rows: rows of the array.
        records: U; for `write_marked_rows` with padding, in whole blocks.
        rows: k, rows of a record.

    The loops of `write_records` are as long as a part of a block needs, if there is no more.
    """
    half = -(-records // (2 * UNROLL)) * UNROLL
    chunk = min(CHUNK, max(half, 2 * UNROLL))
    return template(name).substitute(
        array_rows=array_rows,
        block_rows=BLOCK * rows,
        chunk=chunk,
        chunk_rows=chunk * rows,
        chunks=max(-(-min(records, BLOCK) // chunk), 2),
        trips=chunk // UNROLL,
        rows=rows,
        blocks=-(-records // BLOCK),
    )

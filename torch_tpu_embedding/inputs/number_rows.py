"""Rows of numbers of any usual kind (lists, tuples, numpy arrays, tensors) as one flat tensor.

Letters: B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_INT64 = np.iinfo(np.int64)
_WHERE = "Ragged.from_lists"


def join_rows(rows: Any, dtype: torch.dtype | None) -> tuple[Tensor, list[int]]:
    """The values of all rows end to end, and the length of each row.

    Args:
        rows: as for `Ragged.from_lists`.
        dtype: of the values; None to find it from them.

    Raises:
        TypeError: a row is no sequence of numbers.
        ValueError: a row has another rank than 1, or a number is not one of that dtype.
    """
    if isinstance(rows, (Tensor, np.ndarray)):
        if rows.ndim != 2:
            raise ValueError(
                f"{_WHERE}: an array or tensor must have shape [B, values], got {[*rows.shape]}; for "
                "flat values and the length of each row there is Ragged.from_lengths"
            )
        return _cast(_to_tensor("the rows", rows.reshape(-1)), dtype), [rows.shape[1]] * len(rows)
    rows = list(rows)
    if all(isinstance(row, (list, tuple)) for row in rows):
        parts = [_from_numbers(rows, dtype)]
    else:
        parts = [
            _from_numbers([row], dtype, first_row=number)
            if isinstance(row, (list, tuple))
            else _to_tensor(f"row {number}", row)
            for number, row in enumerate(rows)
        ]
    parts = [part for part in parts if len(part)]  # an empty one has no say in the dtype
    values = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device="cpu")
    return _cast(values, dtype), [len(row) for row in rows]


def _from_numbers(rows: Sequence[Any], dtype: torch.dtype | None, first_row: int = 0) -> Tensor:
    """The numbers of lists: int64, or floating point if any of them is."""
    flat = [value for row in rows for value in row]
    try:
        array = np.asarray(flat)
    except (TypeError, ValueError):  # lists inside, or something that is no number
        array = np.empty(0, dtype=object)
    if array.ndim != 1 or array.dtype.kind not in "biuf" or _too_large(array):
        raise _not_numbers(rows, first_row)
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32 if dtype is None else np.float64))
    return torch.from_numpy(array if array.dtype.kind == "b" else array.astype(np.int64))


def _to_tensor(where: str, row: Any) -> Tensor:
    """One array or tensor: bool, int64 or floating point."""
    if not isinstance(row, (Tensor, np.ndarray)):
        raise TypeError(
            f"{_WHERE}: {where} is {row!r} ({type(row).__name__}), not a list, an array or a tensor of "
            "numbers; where each sample has one id, a dense tensor [B] takes the place of a Ragged"
        )
    if row.ndim != 1:
        raise ValueError(f"{_WHERE}: {where} must be 1-dimensional, got shape {[*row.shape]}")
    if isinstance(row, Tensor):
        if row.device.type != "cpu" or row.layout != torch.strided:
            raise TypeError(
                f"{_WHERE}: {where} must be a dense host (CPU) tensor, got {row.layout} on {row.device}"
            )
        integers = not (row.is_floating_point() or row.is_complex() or row.dtype == torch.bool)
        if row.dtype == torch.uint64:
            return _to_tensor(where, row.numpy())
        return row.to(torch.int64) if integers else row
    if row.dtype.kind not in "biuf" or (row.dtype.kind == "f" and row.dtype.itemsize > 8):
        raise TypeError(f"{_WHERE}: {where} must hold numbers that torch knows, got {row.dtype}")
    if _too_large(row):
        raise ValueError(f"{_WHERE}: {where} holds {row.max()}, too large for int64")
    if row.dtype.kind in "iu":
        return torch.from_numpy(row.astype(np.int64))
    return torch.from_numpy(row.astype(row.dtype.newbyteorder("=")))


def _too_large(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype == np.uint64 and array.size > 0 and bool(array.max() > _INT64.max)


def _cast(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Values of a dtype that holds them: floating point may round, anything else must be exact."""
    if dtype is None or values.dtype == dtype:
        return values
    cast = values.to(dtype)
    if not dtype.is_floating_point:
        changed = (cast.to(values.dtype) != values).nonzero()
        if len(changed):
            raise ValueError(
                f"{_WHERE}: {values[int(changed[0])].item()} is no number of {dtype}; choose another dtype"
            )
    return cast


def _not_numbers(rows: Sequence[Any], first_row: int) -> Exception:
    """The error for the first thing in lists that is no number."""
    for number, row in enumerate(rows, first_row):
        for position, value in enumerate(row):
            at = f"{_WHERE}: row {number}, position {position}"
            if isinstance(value, (int, np.integer)) and not _INT64.min <= value <= _INT64.max:
                return ValueError(f"{at} is {value}, too large for int64")
            if not isinstance(value, (int, float, np.number, np.bool_)):
                return TypeError(f"{at} is {value!r} ({type(value).__name__}), not a number")
    return TypeError(f"{_WHERE}: the rows are not lists of real numbers")

"""Nests of host tensors and numpy arrays, as data sets give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def map_tensors(value: Any, put: Callable[[Tensor], Tensor], what: str) -> Any:
    """`value` with `put` of each tensor in it; arrays become tensors of the same type.

    Args:
        value: a tensor, a numpy array, or dicts, lists and tuples of them.
        what: the name of `value` in error messages.

    Raises:
        TypeError: something else is in it; says where, as in `what['key'][0]`.
    """
    if isinstance(value, Tensor):
        return put(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        native = value.dtype.newbyteorder("=")
        return put(torch.from_numpy(np.ascontiguousarray(value, native)))
    if isinstance(value, Mapping):
        return {key: map_tensors(each, put, f"{what}[{key!r}]") for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [map_tensors(each, put, f"{what}[{at}]") for at, each in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    of = f" of dtype {value.dtype}" if isinstance(value, np.ndarray) else ""
    raise TypeError(
        f"{what}: expected a tensor, a numpy array of numbers, or dicts, lists and tuples of them, got "
        f"{type(value).__name__}{of}; make it a tensor with torch.as_tensor"
    )


def is_floating(rows: Tensor | np.ndarray[Any, Any]) -> bool:
    """True if the rows are real floats of some width."""
    return rows.is_floating_point() if isinstance(rows, Tensor) else rows.dtype.kind == "f"


def float32_copy(rows: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Floats as a CPU tensor of float32 in memory of its own; float32 is kept bit for bit."""
    if isinstance(rows, Tensor):
        return rows.detach().to("cpu", torch.float32, copy=True)
    return torch.from_numpy(np.array(rows, np.float32))

"""What the caller adds to a checkpoint: the dense model, its optimizer, the place in the data."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import REMEDY, CheckpointError
from .regular import open_regular


def pack(extra: Any) -> bytes:
    """The bytes of the extra file; tensors of any device become CPU tensors.

    Raises:
        ValueError: it holds objects that `torch.load(weights_only=True)` would refuse.
    """
    buffer = io.BytesIO()
    torch.save(_to_host(extra), buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except Exception as error:
        raise ValueError(
            "extra must hold tensors, numbers, strings and containers of them only, for loading never "
            f"runs code from a file: {str(error).splitlines()[0]}"
        ) from error
    return buffer.getvalue()


def unpack(path: Path) -> Any:
    """Read an extra file; nothing but data is ever restored.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: the extra file cannot be read ({text}); {REMEDY}"
        ) from error


def _to_host(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _to_host(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_to_host(each) for each in value)
    return value

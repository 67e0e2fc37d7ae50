"""The extra file of a step, which holds the caller's part: dense model, optimizer, position in the data.

The file is torch's own, of tensors and plain Python alone. Where numpy was, it says so beside the value:
such a file holds a dict of two, under `_NUMPY` the places, each a way of keys and its dtype, and under
'value' the rest.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import REMEDY, CheckpointError
from .regular import open_regular

MAPS = "torch_tpu_embedding.maps"
"""The key of maps from ids to rows, which a save has put beside the caller's value."""
_NUMPY = "torch_tpu_embedding.numpy"
_ARRAY = "array"
_KINDS = "biufc"  # of dtypes: bool, integers, floats, complex
_Way = tuple[Any, ...]


def pack(extra: Any) -> bytes:
    """The bytes of the extra file; tensors of any device become CPU tensors, of a view its part alone.

    Raises:
        ValueError: `torch.load(weights_only=True)` would refuse a value in it; says where, and its type.
    """
    packing = _Packing()
    try:
        plain = packing.plain(extra, ())
        marked = packing.numpy or (isinstance(plain, dict) and _NUMPY in plain)
        content = _saved({_NUMPY: packing.numpy, "value": plain} if marked else plain)
    except RecursionError:
        raise ValueError("extra: nested too deeply to be written; make it flatter") from None
    if content is None:
        raise ValueError(_refusal(*_culprit(plain, ())))
    return content


def unpack(path: Path) -> Any:
    """Read an extra file; nothing but data is ever restored.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            value = torch.load(file, weights_only=True, map_location="cpu")
        if isinstance(value, dict) and _NUMPY in value:
            places = {tuple(way): kind for way, kind in value[_NUMPY]}
            value = _with_numpy(value["value"], places, ())
        return value
    except Exception as error:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
        text = lines[0] if lines else type(error).__name__
        raise CheckpointError(
            f"{path}: the extra file cannot be read ({text}); {REMEDY}"
        ) from error


class _Packing:
    """A walk through the caller's extra value, which replaces numpy's values and notes their places."""

    def __init__(self) -> None:
        self.numpy: list[tuple[_Way, str]] = []
        """The places at which there were values of numpy, and their kinds."""
        self._open: set[int] = set()
        self._tensors: dict[int, Tensor] = {}

    def plain(self, value: Any, way: _Way) -> Any:
        """The same value in containers of Python, CPU tensors and numbers of Python."""
        if isinstance(value, Tensor):
            return self._tensor(value, way)
        if isinstance(value, np.generic):
            return self._number(value, way)
        if type(value) is np.ndarray:
            return self._array(value, way)
        if not isinstance(value, Mapping) and type(value) not in (list, tuple):
            return value
        if id(value) in self._open:
            raise ValueError(f"{_name(way)} holds itself; extra cannot be written")
        self._open.add(id(value))
        if isinstance(value, Mapping):
            # a number of numpy is equal to that of Python, also as a key
            keys = {key: key.item() if isinstance(key, np.generic) else key for key in value}
            made: Any = {
                keys[key]: self.plain(each, (*way, keys[key])) for key, each in value.items()
            }
        else:
            made = type(value)(self.plain(each, (*way, at)) for at, each in enumerate(value))
        self._open.remove(id(value))
        return made

    def _tensor(self, value: Tensor, way: _Way) -> Tensor:
        if id(value) in self._tensors:
            return self._tensors[id(value)]
        try:
            host = value.detach().cpu()
        except Exception as error:
            raise ValueError(
                f"{_name(way)}: a tensor on {value.device} that cannot be copied to the host; give one "
                "with values"
            ) from error
        if host.layout == torch.strided:
            used = host.numel() * host.element_size()
            if host.untyped_storage().nbytes() > used:  # torch writes all that a view looks into
                host = host.clone()
        self._tensors[id(value)] = host
        return host

    def _number(self, value: np.generic, way: _Way) -> Any:
        if not _is_plain(value.dtype, "US"):
            raise ValueError(_refusal(way, value))
        self.numpy.append((way, value.dtype.str))
        return value.item()

    def _array(self, value: np.ndarray[Any, Any], way: _Way) -> Tensor:
        if not _is_plain(value.dtype):
            raise ValueError(_refusal(way, value))
        self.numpy.append((way, _ARRAY))
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))


def _is_plain(dtype: np.dtype[Any], also: str = "") -> bool:
    """True for a dtype of numpy whose numbers torch, or Python, has too."""
    return dtype.kind in _KINDS + also and dtype.char not in "gG"  # these: longer than float64


def _with_numpy(value: Any, places: Mapping[_Way, str], way: _Way) -> Any:
    """Plain values with numpy's again in these places."""
    kind = places.get(way)
    if kind is not None:
        return value.numpy() if kind == _ARRAY else np.dtype(kind).type(value)
    if isinstance(value, dict):
        return {key: _with_numpy(each, places, (*way, key)) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_numpy(each, places, (*way, at)) for at, each in enumerate(value))
    return value


def _saved(value: Any) -> bytes | None:
    """The bytes of the file, or None if it would hold a value that readers refuse."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except RecursionError:
        raise
    except Exception:
        return None
    return buffer.getvalue()


def _culprit(value: Any, way: _Way) -> tuple[_Way, Any]:
    """The innermost value that cannot be saved, and the way to it."""
    if isinstance(value, dict):
        for key, each in value.items():
            if _saved(key) is None:
                return way, key
            if _saved(each) is None:
                return _culprit(each, (*way, key))
    elif type(value) in (list, tuple):
        for at, each in enumerate(value):
            if _saved(each) is None:
                return _culprit(each, (*way, at))
    return way, value


def _refusal(way: _Way, value: Any) -> str:
    kind = type(value)
    shown = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    if isinstance(value, (np.ndarray, np.generic)):
        shown += f" of dtype {value.dtype}"
    if callable(getattr(value, "state_dict", None)):
        remedy = "give its state_dict()"
    else:
        remedy = "turn it into one of these, such as a dict, a list or a str"
    return (
        "extra must hold tensors, numbers, strings, numpy's numbers and arrays of them, and dicts, lists "
        f"and tuples, for loading never runs code from a file: {_name(way)} is, or has as a key, a "
        f"{shown}; {remedy}"
    )


def _name(way: _Way) -> str:
    return "extra" + "".join(f"[{step!r}]" for step in way)


def parted(value: Any) -> tuple[Any, Mapping[str, Any]]:
    """The caller's part of an extra value as it was written, and the maps of tables that lie beside it."""
    if not (isinstance(value, dict) and MAPS in value):
        return value, {}
    maps = value[MAPS]
    return value["value"], maps if isinstance(maps, dict) else {}

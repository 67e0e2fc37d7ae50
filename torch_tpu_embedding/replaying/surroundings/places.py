"""Places that a function's code reads from: names in closures, globals and objects, and what is in them."""

from __future__ import annotations

import pickle
import random
from array import array
from collections import UserDict, UserList, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import CellType, MappingProxyType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

MOST_ITEMS = 256
"""Items of a list or dict, or numbers of an array of the host, up to which contents are compared."""
_looks = count()


class _Absent:
    """Stands in the place of a name that is not there."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


class Holder(Protocol):
    """Has values by their names: a dict, or a class that is read like one."""

    def get(self, name: str, absent: object, /) -> object:
        """The value of a name, or `absent`."""


class Cell:
    """A cell of a closure, read like a dict."""

    def __init__(self, cell: CellType) -> None:
        self._cell = cell

    def get(self, name: str, absent: object, /) -> object:
        """The cell's content, whatever the name."""
        try:
            return self._cell.cell_contents
        except ValueError:
            return absent


class Slots:
    """An object with `__slots__`, read like a dict."""

    def __init__(self, of: object) -> None:
        self._of = of

    def get(self, name: str, absent: object, /) -> object:
        """The value of the slot."""
        return getattr(self._of, name, absent)


@dataclass
class Places:
    """Names to look up, and containers to look into."""

    names: list[tuple[Holder, str]] = field(default_factory=list)
    anchors: list[object] = field(default_factory=list)
    """The object that each of these names belongs to."""
    words: list[str] = field(default_factory=list)
    """The kind of each name, for messages."""
    boxes: list[object] = field(default_factory=list)
    box_names: list[str] = field(default_factory=list)
    masks: list[set[int] | None] = field(default_factory=list)
    """Positions of each box's contents that are left out."""

    def read(self) -> tuple[list[object], list[tuple[object, ...]]]:
        """The present values of the names, and those in the boxes."""
        return (
            [holder.get(name, ABSENT) for holder, name in self.names],
            [
                _masked(contents(box) or (), mask)
                for box, mask in zip(self.boxes, self.masks, strict=True)
            ],
        )

    def told(self, names: Sequence[int], boxes: Sequence[int]) -> str:
        """The first of some places, in words."""
        if names:
            return f"{self.names[names[0]][1]!r} ({self.words[names[0]]})"
        return f"something in {self.box_names[boxes[0]]!r}"


def _masked(items: tuple[object, ...], mask: set[int] | None) -> tuple[object, ...]:
    if mask is None:
        return items
    return tuple([ABSENT if n in mask else each for n, each in enumerate(items)])


def contents(box: object) -> tuple[object, ...] | None:
    """The items of a container, numbers of an array of the host, or the state of a random generator; None
    if it is none of these."""
    if isinstance(box, list | tuple | set | frozenset | deque):
        return tuple(box) if len(box) <= MOST_ITEMS else (len(box),)
    if isinstance(box, dict | MappingProxyType):
        return (*box, *box.values()) if len(box) <= MOST_ITEMS else (len(box),)
    if isinstance(box, np.ndarray):
        small = box.size <= MOST_ITEMS and box.dtype != object
        return (str(box.dtype), box.shape, box.tobytes()) if small else (str(box.dtype), box.shape)
    if type(box) in (Tensor, nn.Parameter) and isinstance(box, Tensor) and box.device.type == "cpu":
        return _of_host(box)
    if isinstance(box, UserDict | UserList):
        return contents(box.data)
    if isinstance(box, bytearray | array):
        return (bytes(box),) if len(box) <= MOST_ITEMS else (len(box),)
    return _of_drawing(box)


def _of_drawing(box: object) -> tuple[object, ...] | None:
    """The state of something of which each use gives something else; None if it is no such thing."""
    if isinstance(box, np.random.Generator):
        return (pickle.dumps(box.bit_generator.state),)
    if isinstance(box, np.random.BitGenerator):
        return (pickle.dumps(box.state),)
    if isinstance(box, np.random.RandomState):
        return (pickle.dumps(box.get_state(legacy=False)),)
    if isinstance(box, random.Random) and not isinstance(box, random.SystemRandom):
        _, state, left = box.getstate()
        return array("I", state).tobytes(), left
    if isinstance(box, torch.Generator) and box.device.type == "cpu":
        return (bytes(box.get_state().numpy()),)
    if isinstance(box, random.SystemRandom) or (
        isinstance(box, Iterator) and type(box).__module__ in ("builtins", "itertools")
    ):
        return (next(_looks),)  # it cannot be looked at without taking from it
    return None


def _of_host(value: Tensor) -> tuple[object, ...]:
    if value.layout is torch.strided and value.numel() <= MOST_ITEMS and not value.is_quantized:
        numbers = value.detach().resolve_conj().resolve_neg().reshape(-1).contiguous()
        return value.dtype, value.shape, bytes(numbers.view(torch.uint8).tolist())
    return value.dtype, value.shape, 0 if value.is_inference() else value._version

"""Values that a step's function takes from elsewhere than its arguments: closure, globals, attributes.

A replay runs no Python code, so it would not see that one of them has changed. Those that the code names
(`code_names.py`) are read before each call; what they are together is a part of the program's key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import copysign
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdRef

from ...runtime.torch_xla import programs
from .finder import find_places
from .places import Places, contents

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, np.generic)
_MOST_STATES = 64


class _It:
    """An object as itself: equal to no other one, even after its end. Not kept alive if that can be
    helped."""

    __slots__ = ("_number", "of")

    def __init__(self, value: object) -> None:
        self._number = id(value)
        self.of: Callable[[], object]
        try:
            self.of = WeakIdRef(value)  # type: ignore[no-untyped-call]
        except TypeError:
            self.of = lambda: value

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        value = self.of()
        return isinstance(other, _It) and value is not None and value is other.of()


class Surroundings:
    """Watches what the code of a step names.

    Args:
        function: of the step.
        modules: gives the modules that it calls, whose `forward` is looked at, too.
    """

    def __init__(
        self, function: Callable[..., Any], modules: Callable[[], Sequence[nn.Module]]
    ) -> None:
        self._function = function
        self._modules = modules
        self._known: OrderedDict[object, int] = OrderedDict()
        self._states = 0
        self._own: dict[tuple[int, str], object] = {}
        """Names and boxes that the step itself changes, by the numbers of their objects, which are kept."""
        self._masks: dict[int, set[int]] = {}
        self._masked: dict[int, object] = {}
        self._grown: dict[int, tuple[object, str, tuple[object, ...] | None]] = {}
        """Boxes in which the step itself has put or removed items, their names, and the numbers in them
        before the present step; None for one that is new here."""
        self._told: str | None = None
        self.change = ""
        """The change seen last, as the beginning of a sentence."""
        self._places = Places()
        self._last = self._places.read()
        self._token = self._num_modules = 0
        self._look()

    def token(self) -> tuple[int, bool]:
        """A number for the present values, and True if these were seen together before."""
        for number, (box, name, _) in self._grown.items():
            self._grown[number] = box, name, _numbers_in(box)
        if len(self._modules()) != self._num_modules:
            self._look()
            return self._token, True
        now = self._places.read()
        names, boxes = self._changed(now)
        if names or boxes:
            self.change = self._places.told(names, boxes) + " has changed"
            plain = not boxes and all(
                isinstance(values[n], _PLAIN) for n in names for values in (now[0], self._last[0])
            )
            states = self._states
            if plain:
                self._last = now
                self._token = self._token_now()
            else:
                self._look()
            return self._token, self._states == states
        self._last = now
        return self._token, True

    def note_step(self, first: bool = False, again: bool = False) -> str | None:
        """Take note of what a traced step has changed itself since `token`: that is watched no longer.

        Args:
            first: True for a step that may set up what later ones use.
            again: True for one whose program was traced before, so that what it puts into a list or dict is
                no result that is kept for later steps.

        Returns:
            A sentence about a number that this step, or one before, has changed, which a replayed step
            would not do.
        """
        now = self._places.read()
        names, boxes = self._changed(now)
        for n in names:
            anchor, name = self._places.anchors[n], self._places.names[n][1]
            if isinstance(now[0][n], _PLAIN) and isinstance(self._last[0][n], _PLAIN):
                if first:
                    continue
                self._tell(self._places.told([n], []))
            self._own[id(anchor), name] = anchor
        for n in boxes:
            if not first and _numbers_differ(now[1][n], self._last[1][n]):
                self._tell(self._places.told([], [n]))
            self._disown(n, now[1][n], self._last[1][n], first)
        for box, name, before in self._grown.values() if again else ():
            present = _numbers_in(box)
            if before is None or len(before) != len(present):
                self._tell(f"the number of items in {name!r}")
            elif _numbers_differ(present, before):
                self._tell(f"a number in {name!r}")
        if names or boxes:
            self._look()
        return self._told

    def _tell(self, place: str) -> None:
        self._told = f"it changes {place}, which a replayed step does not do; do that outside"

    def _disown(
        self, number: int, now: tuple[object, ...], then: tuple[object, ...], first: bool
    ) -> None:
        """Leave out what a step has changed in a container, given by its number among the boxes; of the
        first step no numbers, which a later one may change, too."""
        box = self._places.boxes[number]
        if len(now) != len(then):
            self._own[id(box), ""] = box
            self._grown[id(box)] = box, self._places.box_names[number], None
            return
        self._masked[id(box)] = box
        mask = self._masks.setdefault(id(box), set())
        mask |= {
            n
            for n, (a, b) in enumerate(zip(now, then, strict=True))
            if not _equal_items((a,), (b,)) and not (first and _numbers_differ((a,), (b,)))
        }

    def scalars(self) -> list[Tensor]:
        """The tensors of the device without dimensions among the values."""
        names, boxes = self._places.read()
        found = [*names, *(each for box in boxes for each in box)]
        tensors = {id(e): e for e in found if isinstance(e, Tensor) and programs.is_on_device(e)}
        return [each for each in tensors.values() if each.dim() == 0]

    def _look(self) -> None:
        """Find the places again: an object may have come in place of another."""
        modules = self._modules()
        self._num_modules = len(modules)
        self._places = find_places(self._function, modules, self._own, self._masks)
        self._last = self._places.read()
        self._token = self._token_now()

    def _changed(
        self, now: tuple[list[object], list[tuple[object, ...]]]
    ) -> tuple[list[int], list[int]]:
        """The numbers of the names and of the boxes that hold something else than last time."""
        names: list[int] = []
        if not all(map(is_, now[0], self._last[0])):
            pairs = zip(now[0], self._last[0], strict=True)
            names = [n for n, (a, b) in enumerate(pairs) if a is not b and not _equal(a, b)]
        pairs_of_boxes = zip(now[1], self._last[1], strict=True)
        return names, [n for n, (a, b) in enumerate(pairs_of_boxes) if not _equal_items(a, b)]

    def _token_now(self) -> int:
        names, boxes = self._last
        labels = tuple([name for _, name in self._places.names])
        key = (
            labels,
            tuple(map(_frozen, names)),
            tuple([tuple(map(_frozen, each)) for each in boxes]),
        )
        token = self._known.get(key)
        if token is None:
            self._states += 1
            token = self._known[key] = self._states
            if len(self._known) > _MOST_STATES:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return token


def _frozen(value: object) -> object:
    """Equal for values that make the same program."""
    if isinstance(value, float):
        return type(value), value, copysign(1.0, value)
    if isinstance(value, complex):
        return type(value), repr(value)
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, tuple):
        return type(value), tuple(map(_frozen, value))
    if (found := contents(value)) is not None:
        return type(value), len(found)  # what is in it is a box of its own
    return _It(value)


def _numbers_in(box: object) -> tuple[object, ...]:
    """The items of a container; of those that are no numbers, which are not kept, the types."""
    return tuple(each if isinstance(each, _PLAIN) else type(each) for each in contents(box) or ())


def _numbers_differ(now: tuple[object, ...], then: tuple[object, ...]) -> bool:
    """True if containers of as many items differ in a number, a text or a bool."""
    return len(now) == len(then) and any(
        isinstance(a, _PLAIN) and isinstance(b, _PLAIN) and not _equal(a, b)
        for a, b in zip(now, then, strict=True)
    )


def _equal(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple) and isinstance(other, tuple):
        return _equal_items(one, other)
    return isinstance(one, _PLAIN) and _frozen(one) == _frozen(other)


def _equal_items(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    if len(one) != len(other):
        return False
    if all(map(is_, one, other)):
        return True
    return all(a is b or _equal(a, b) for a, b in zip(one, other, strict=True))

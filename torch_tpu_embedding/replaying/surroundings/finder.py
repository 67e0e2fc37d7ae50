"""Finds the places that a function's code reads from, through the functions and objects that it names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from types import CellType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from .code_names import names_of
from .places import ABSENT, Cell, Holder, Places, Slots, contents

_MOST_PLACES = 4096
_LIBRARIES = frozenset(("torch", "torch_xla", "torch_tpu_embedding", "numpy"))
_SKIPPED = sys.stdlib_module_names | _LIBRARIES
"""Packages whose code is not looked at."""


def find_places(
    function: Callable[..., Any],
    modules: Iterable[nn.Module],
    own: Mapping[tuple[int, str], object],
    masks: Mapping[int, set[int]],
) -> Places:
    """The places that a function reads from, and the `forward` of some modules.

    Args:
        own: names by the number of what they belong to, and boxes (with the name ''), to leave out.
        masks: the positions to leave out, by the numbers of boxes.
    """
    finder = _Finder(own, masks)
    finder.function(function, root=True)
    for each in modules:
        finder.value(each, type(each).__name__)
    finder.follow_loose()
    return finder.places


def _package(of: object) -> str:
    return str(getattr(of, "__module__", None) or "").partition(".")[0]


def _attributes(of: object) -> dict[str, object]:
    found = getattr(of, "__dict__", None)
    return found if isinstance(found, dict) else {}


class _Finder:
    def __init__(
        self, own: Mapping[tuple[int, str], object], masks: Mapping[int, set[int]]
    ) -> None:
        self.places = Places()
        self._masks = masks
        self._own = own
        self._named: set[tuple[int, str]] = set()
        self._functions: dict[tuple[int, int], object] = {}
        self._values: dict[int, object] = {}
        self._objects: list[object] = []
        self._loose: set[str] = set()

    def function(self, function: object, bound: object = ABSENT, root: bool = False) -> None:
        """Look at the code of a function, or of anything that can be called."""
        if isinstance(function, partial):
            self.value((function.args, function.keywords), "partial")
            self.function(function.func, root=root)
        elif isinstance(function, MethodType):
            self.value(function.__self__, type(function.__self__).__name__)
            self.function(function.__func__, function.__self__, root)
        elif isinstance(function, FunctionType):
            if root or _package(function) not in _SKIPPED:
                self._function(function, bound)
            if (wrapped := getattr(function, "__wrapped__", None)) is not None:
                self.function(wrapped, bound, root)
        elif root:
            self.value(function, type(function).__name__)

    def value(self, value: object, name: str) -> None:
        """Look into a value: an object, a container, or a function."""
        if id(value) in self._values or value is ABSENT:
            return
        if contents(value) is not None:
            self._values[id(value)] = value
            self._box(value, name)
        elif isinstance(value, FunctionType | MethodType | partial):
            self._values[id(value)] = value
            self.function(value)
        elif not isinstance(value, Tensor | ModuleType) and (
            hasattr(value, "__dict__") or hasattr(type(value), "__slots__")
        ):
            self._values[id(value)] = value
            self._object(value)

    def follow_loose(self) -> None:
        """Look up the attributes of which it is not known whose they are, in all objects that were met."""
        done: dict[int, set[str]] = {}
        before = (-1, -1)
        while before != (before := (len(self._objects), len(self._loose))):
            for each in [*self._objects]:
                classes = each.__mro__ if isinstance(each, type) else type(each).__mro__
                has = {*_attributes(each)}.union(
                    *(vars(c) for c in classes if _package(c) not in _SKIPPED)
                )
                if isinstance(each, nn.Module):
                    has.update(each._parameters, each._buffers, each._modules)
                known, wanted = done.setdefault(id(each), set()), {*self._loose}
                for loose in sorted(wanted - known):
                    name, own = loose.removesuffix("()"), _attributes(each)
                    # `optimizer.step()` says nothing of a counter `step` in another object.
                    is_other = name != loose and name in own and not callable(own[name])
                    if name in has and not is_other:
                        self.value(self._attribute(each, name), name)
                known |= wanted

    def _box(self, value: Any, name: str) -> None:
        if (id(value), "") in self._own:
            return
        if len(self.places.boxes) < _MOST_PLACES and not isinstance(value, tuple):
            self.places.boxes.append(value)
            self.places.box_names.append(name)
            self.places.masks.append(self._masks.get(id(value)))
        if isinstance(value, list | tuple | dict | set):
            for item in contents(value) or ():
                self.value(item, name)

    def _object(self, value: object) -> None:
        kind = value if isinstance(value, type) else type(value)
        if _package(kind) in _LIBRARIES:
            return
        self._objects.append(value)
        if isinstance(value, type):
            self.function(vars(value).get("__init__"))
            return
        for name in ("forward",) if isinstance(value, nn.Module) else ("__call__",):
            called = getattr(kind, name, None)
            if isinstance(called, FunctionType):
                self.function(called, value)

    def _function(self, function: FunctionType, bound: object) -> None:
        code, pair = function.__code__, (id(function), id(bound))
        if pair in self._functions:
            return
        self._functions[pair] = function, bound
        self.value((function.__defaults__, function.__kwdefaults__), code.co_name)
        known: dict[str, object] = dict(
            zip(code.co_freevars, function.__closure__ or (), strict=True)
        )
        if bound is not ABSENT and code.co_argcount:
            known[code.co_varnames[0]] = bound
        self._code(code, known, function.__globals__)

    def _code(self, code: CodeType, known: dict[str, object], of_module: dict[str, object]) -> None:
        names = names_of(code)
        self._loose |= names.loose
        for first, *rest in sorted(names.of_globals):
            self._chain(self._name(of_module, first, of_module, "a global"), [first, *rest])
        here = {
            name: value
            for name, value in known.items()
            if isinstance(value, CellType) or name not in names.assigned
        }
        for first, *rest in sorted(names.of_locals):
            value = here.get(first, ABSENT)
            if isinstance(value, CellType):
                value = self._name(Cell(value), first, value, "in the closure")
            self._chain(value, [first, *rest])
        for each in names.inner:
            self._code(each, {k: v for k, v in here.items() if k in each.co_freevars}, of_module)

    def _chain(self, value: object, names: list[str]) -> None:
        """Follow attributes from one object to the next."""
        self.value(value, names[0])
        for number, name in enumerate(names[1:], 1):
            if value is ABSENT:
                self._loose.update(names[number:])
                return
            name = name.removesuffix("()")
            value = self._attribute(value, name)
            self.value(value, name)

    def _name(self, holder: Holder, name: str, anchor: object, words: str) -> object:
        if (id(anchor), name) in self._own:
            return ABSENT
        if (id(anchor), name) not in self._named and len(self._named) < _MOST_PLACES:
            self._named.add((id(anchor), name))
            self.places.names.append((holder, name))
            self.places.anchors.append(anchor)
            self.places.words.append(words)
        return holder.get(name, ABSENT)

    def _attribute(self, of: object, name: str) -> object:
        """The value of an attribute; ABSENT if it has none, or only code, which is looked at."""
        if isinstance(of, ModuleType):
            if _package_of(of) in _SKIPPED:
                return ABSENT
            return self._name(vars(of), name, of, f"in the module {of.__name__}")
        words = f"an attribute of a {type(of).__name__}"
        if isinstance(of, type):
            return self._of_class(of, of, name, f"an attribute of {of.__name__}")
        if isinstance(of, nn.Module):
            for part in (of._parameters, of._buffers, of._modules):
                if name in part:
                    return self._name(part, name, part, words)
        attributes = _attributes(of)
        found = self._name(attributes, name, of, words) if attributes else ABSENT
        return found if found is not ABSENT else self._of_class(type(of), of, name, words)

    def _of_class(self, kind: type, of: object, name: str, words: str) -> object:
        for each in kind.__mro__:
            if name not in vars(each):
                continue
            found = vars(each)[name]
            if isinstance(found, MemberDescriptorType):
                return self._name(Slots(of), name, of, words)
            if isinstance(found, FunctionType):
                self.function(found, ABSENT if of is kind else of)
            elif isinstance(found, staticmethod | classmethod):
                self.function(found.__func__, kind if isinstance(found, classmethod) else ABSENT)
            elif isinstance(found, property):
                self.function(found.fget, of)
            elif isinstance(found, cached_property):
                self.function(found.func, of)
            elif _package(each) not in _SKIPPED and not callable(found):
                return self._name(vars(each), name, each, words)
            return ABSENT
        return ABSENT


def _package_of(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]

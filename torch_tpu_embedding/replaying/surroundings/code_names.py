"""The names by which a function's code reaches what lies outside of it."""

from __future__ import annotations

import dis
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from types import CodeType

_THROUGH = frozenset(("CACHE", "COPY", "DUP_TOP", "EXTENDED_ARG", "NOP", "PUSH_NULL"))
_ATTRIBUTES = frozenset(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"))
_GLOBALS = frozenset(("LOAD_GLOBAL", "LOAD_NAME"))


@dataclass(frozen=True)
class CodeNames:
    """The names in a code object; `self.head.scale` is the local name `self`, then `head` and `scale`."""

    of_globals: frozenset[tuple[str, ...]]
    """Global names, each with the attributes that are read from it."""
    of_locals: frozenset[tuple[str, ...]]
    """Names of arguments, variables and closure cells, likewise."""
    loose: frozenset[str]
    """Attributes of anything else: of results, of items. One that is called ends in '()', as does the last
    of the other names."""
    assigned: frozenset[str]
    """Local names that it assigns, so that they are not what the caller gave."""
    inner: tuple[CodeType, ...]
    """Functions, lambdas and comprehensions in it."""


@dataclass
class _Reader:
    """Puts instructions in a row together to chains of names."""

    chains: dict[str, set[tuple[str, ...]]] = field(
        default_factory=lambda: {"global": set(), "local": set()}
    )
    loose: set[str] = field(default_factory=set)
    assigned: set[str] = field(default_factory=set)
    _open: tuple[str, tuple[str, ...]] | None = None

    def close(self) -> None:
        if self._open is not None:
            kind, chain = self._open
            self.chains[kind].add(chain)
        self._open = None

    def read(self, operation: str, value: object, called: bool) -> None:
        if operation in _THROUGH:
            return
        name = value[-1] if isinstance(value, tuple) and value else value
        if operation in _ATTRIBUTES and isinstance(name, str):
            name += "()" if called else ""
            if self._open is None:
                self.loose.add(name)
            else:
                kind, chain = self._open
                self._open = kind, (*chain, name)
            return
        self.close()
        if operation in _GLOBALS and isinstance(name, str):
            self._open = "global", (name,)
            return
        names = value if isinstance(value, tuple) else (value,)
        for part, each in zip(_parts(operation), names, strict=False):
            if not isinstance(each, str):
                continue
            self.close()
            if part == "LOAD":
                self._open = "local", (each,)
            else:
                self.assigned.add(each)


def _parts(operation: str) -> list[str]:
    """LOAD or STORE for each local name of an instruction: Python 3.13 has some of two names, such as
    STORE_FAST_LOAD_FAST."""
    words = operation.split("_")
    places = {"FAST", "DEREF", "CLASSDEREF"}
    return [
        "LOAD" if word == "LOAD" else "STORE"
        for word, place in pairwise(words)
        if word in ("LOAD", "STORE", "DELETE") and place in places
    ]


def _is_called(instruction: dis.Instruction) -> bool:
    """True if the attribute that is read is a method that is about to be called."""
    if instruction.opname == "LOAD_ATTR" and sys.version_info >= (3, 12):
        return bool((instruction.arg or 0) & 1)
    return instruction.opname == "LOAD_METHOD"


@lru_cache(1024)
def names_of(code: CodeType) -> CodeNames:
    """The names in a code object, without those of the functions in it."""
    reader = _Reader()
    for each in dis.get_instructions(code):
        reader.read(each.opname, each.argval, _is_called(each))
    reader.close()
    loose = reader.loose
    if ("getattr",) in reader.chains["global"]:
        loose |= {each for each in code.co_consts if isinstance(each, str) and each.isidentifier()}
    return CodeNames(
        frozenset(reader.chains["global"]),
        frozenset(reader.chains["local"]),
        frozenset(loose),
        frozenset(reader.assigned),
        tuple(each for each in code.co_consts if isinstance(each, CodeType)),
    )

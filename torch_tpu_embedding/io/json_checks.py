"""JSON read as untrusted data: parsed without surprises, and compared with what is expected before use.

A *check* is called with a value and the keys that lead to it, and raises a ValueError that names these, the
value and what was expected there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, str], None]

MOST = 2**63 - 1
"""The largest integer taken: counts and ids are int64 everywhere."""
_WIDTH = 40


def parse(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: the text is no JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def integer(least: int = 0, most: int = MOST) -> Check:
    """A whole number; a float, a bool or a string of the same value is none."""

    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            above = "" if most == MOST else f", at most {most}"
            _fail(value, where, f"an integer of at least {least}{above}")

    return check


def text(value: Any, where: str) -> None:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        _fail(value, where, "a string that is not empty")


def matching(pattern: str, what: str) -> Check:
    """A string of a form."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            _fail(value, where, what)

    return check


def one_of(*allowed: Any) -> Check:
    """One of some strings or numbers."""

    def check(value: Any, where: str) -> None:
        if not any(type(value) is type(each) and value == each for each in allowed):
            _fail(value, where, " or ".join(map(repr, allowed)))

    return check


def nullable(inner: Check) -> Check:
    """null, or what `inner` takes."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def list_of(inner: Check, length: int | None = None) -> Check:
    """A list."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or length not in (None, len(value)):
            _fail(value, where, "a list" if length is None else f"a list of {length}")
        for position, each in enumerate(value):
            inner(each, f"{where}[{position}]")

    return check


def mapping(key: Check, inner: Check) -> Check:
    """An object with any keys that `key` takes."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _fail(value, where, "an object")
        for name, each in value.items():
            key(name, f"a name in {where or 'it'}")
            inner(each, f"{where}[{shown(name)}]")

    return check


def all_of(*checks: Check) -> Check:
    """A value that all of the given checks take."""

    def check(value: Any, where: str) -> None:
        for each in checks:
            each(value, where)

    return check


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these names; others are no fault."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _fail(value, where, "an object")
        prefix = f"{where}." if where else ""
        for name, inner in required.items():
            if name not in value:
                raise ValueError(f"{prefix}{name} is missing")
            inner(value[name], prefix + name)
        for name, inner in (optional or {}).items():
            if name in value:
                inner(value[name], prefix + name)

    return check


def plain(depth: int) -> Check:
    """Any value that JSON has, not nested deeper than this."""

    def check(value: Any, where: str) -> None:
        if value is not None and not isinstance(value, (dict, list, tuple, str, int, float)):
            _fail(value, where, "a string, a number, a list or an object")
        if isinstance(value, (dict, list, tuple)):
            if depth == 0:
                raise ValueError(f"{where} is nested too deeply")
            each_check = plain(depth - 1)
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, each in pairs:
                each_check(each, f"{where}[{shown(key)}]")

    return check


def _fail(value: Any, where: str, expected: str) -> None:
    raise ValueError(f"{where or 'all of it'} is {shown(value)}, expected {expected}")


def shown(value: Any) -> str:
    """A value in a message, cut short."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    whole = repr(value)
    return whole if len(whole) <= _WIDTH else f"{whole[:_WIDTH]}…"

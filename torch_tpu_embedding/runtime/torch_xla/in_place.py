"""Counts the calls of torch_xla's functions that let a tensor wait without making one.

None of its own counters shows them: a barrier, and collectives that write into a tensor they are given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .device import bindings

calls = {"begun": 0}
"""How many calls of these functions have begun in this process since `count_calls`."""


def count_calls() -> None:
    """Count from now on. Twice does no harm."""
    for name, function in vars(bindings()).items():
        if _works_in_place(name) and not hasattr(function, "__wrapped__"):
            setattr(bindings(), name, _counted(function))


def _works_in_place(name: str) -> bool:
    """True for the name of a function of the bindings that works in place."""
    ends = ("_", "_out", "_inplace")
    return name == "_replace_xla_tensor" or (name.startswith("_xla_") and name.endswith(ends))


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        calls["begun"] += 1
        return function(*args, **kwargs)

    return run

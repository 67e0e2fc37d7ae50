"""Warnings that point at the line of the user's which caused them, and that line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import FrameType

import torch

_OWN = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


def warn_caller(message: str) -> None:
    """Give a RuntimeWarning at the innermost line that is neither in this package nor in torch."""
    level, _ = _caller()
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def caller_line() -> str:
    """File and line of the innermost line that is neither in this package nor in torch: 'model.py:7'."""
    _, frame = _caller()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _caller() -> tuple[int, FrameType]:
    """The stack level of that line, seen from the function that calls this, and its frame."""
    level, frame = 0, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        level, frame = level + 1, frame.f_back
    return level, frame

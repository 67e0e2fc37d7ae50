"""Warnings that point at the line of the user's which caused them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

_OWN = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


def warn_caller(message: str) -> None:
    """Give a RuntimeWarning at the innermost line that is neither in this package nor in torch."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)

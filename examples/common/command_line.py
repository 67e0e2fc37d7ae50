"""What the command lines of both examples share: types of options, and the file of results."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def at_least(least: int) -> Callable[[str], int]:
    """An option type: whole numbers from `least` on."""

    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return whole_number


def between(low: float, high: float) -> Callable[[str], float]:
    """An option type: numbers above `low` and below `high`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above {low}, below {high}")
        return value

    return number


def write_results(path: Path, args: argparse.Namespace, content: dict[str, Any]) -> None:
    """Write the options and `content` as JSON, and say where."""
    options = {key: str(v) if isinstance(v, Path) else v for key, v in vars(args).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"options": options, **content}, indent=1) + "\n")
    print(f"results: {path}")

"""The numbers of the tables' weights: an option of the examples, and what it gives TableConfig."""

from __future__ import annotations

import argparse
from typing import Any

import torch

TABLES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "bfloat16-nearest": {"dtype": torch.bfloat16, "rounding": "nearest"},
}
"""Values of --tables, each with the arguments of its TableConfigs."""


def add_tables_option(group: argparse._ArgumentGroup) -> None:
    """Add --tables, one of TABLES."""
    text = "numbers of the tables' weights; an update rounds them to bfloat16 by chance, or to the "
    text += "nearest one (default: %(default)s)"
    group.add_argument("--tables", choices=tuple(TABLES), default="float32", help=text)

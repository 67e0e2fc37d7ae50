"""The learning rate of each table at the time of an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set

import torch

from .resolved import Table

_LARGEST = torch.finfo(torch.float32).max


def current_rates(tables: tuple[Table, ...]) -> list[float]:
    """The rate of each table now, 0 for a table without optimizer; equal callables are called once.

    Raises:
        ValueError: a callable returned something that is not a finite number.
    """
    read: dict[Callable[[], float], float] = {}
    rates = []
    for table in tables:
        rate = table.optimizer.learning_rate if table.optimizer is not None else 0.0
        if callable(rate):
            if rate not in read:
                read[rate] = finite_rate(table.name, rate())
            rates.append(read[rate])
        else:
            rates.append(float(rate))
    return rates


def check_rates(
    tables: tuple[Table, ...], rates: Sequence[float], frozen: Set[int] = frozenset()
) -> list[float]:
    """The rates as finite floats, and FROZEN for the tables that stay as they are.

    Args:
        frozen: positions of such tables.

    Raises:
        ValueError: a rate is not finite, or an optimizer cannot work with it: FTRL divides by it.
    """
    found = []
    for number, (table, given) in enumerate(zip(tables, rates, strict=True)):
        rate = finite_rate(table.name, given)
        if number in frozen:
            rate = FROZEN
        elif table.optimizer is not None and table.optimizer.divides_by_rate and rate <= 0:
            raise ValueError(
                f"table {table.name!r}: {type(table.optimizer).__name__} divides by the learning rate, "
                f"which must be above 0, got {rate}; to keep the table as it is call "
                f"embedding.freeze({table.name!r})"
            )
        found.append(rate)
    return found


def finite_rate(table_name: str, value: object) -> float:
    """`value` as a float (a number, or a one-element CPU tensor).

    Raises:
        ValueError: the value is not a number, or not finite in float32, in which the device has it.
    """
    try:
        if isinstance(value, str):
            raise TypeError("a text is no number")
        rate = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"table {table_name!r}: learning rate must be a number, got {value!r}"
        ) from error
    if not abs(rate) <= _LARGEST:
        raise ValueError(f"table {table_name!r}: learning rate must be finite, got {rate}")
    return rate


FROZEN = math.inf
"""In place of a learning rate; one that a user gives is finite."""

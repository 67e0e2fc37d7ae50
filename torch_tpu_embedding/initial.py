"""Start values of tables and slots, made on the host and checked. Letters: V vocabulary, D dim."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config import Table, field_shape
from .layout import WEIGHT

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class RowIdInitializer:
    """Fills row i with offset + i, after `tf.tpu.experimental.embedding.RowIdInitializer`: for tests.

    >>> RowIdInitializer(10)((2, 3), torch.float32)
    tensor([[10., 10., 10.],
            [11., 11., 11.]])
    """

    offset: int = 0

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        rows = torch.arange(self.offset, self.offset + shape[0], dtype=dtype)
        return rows[:, None].expand(*shape).contiguous()


def table_values(table: Table, seed: int) -> dict[str, Tensor]:
    """Field name → start values `[V, D]` of one table: 'weight', then its slots.

    The default weights depend on the seed, the table's name and the row alone, not on the other tables.

    Raises:
        ValueError: an initializer returned something of another shape or type, or not finite.
    """
    shape = (table.vocabulary_size, table.dim)
    if table.config.initializer is None:
        weight = truncated_normal(shape, f"{seed}/{table.name}")
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed_of(f"{seed}/{table.name}"))
            weight = _call(table.config.initializer, shape)
        _check(f"table {table.name!r}: its initializer", weight, shape)
        weight = weight.detach().clone()  # the user may keep, or give twice, what was returned
    values = {WEIGHT: weight}
    if table.optimizer is None:
        return values
    starts = table.optimizer.slot_initial_values()
    creation = getattr(table.optimizer, "slot_variable_creation_fn", None)
    if creation is None:
        return values | {
            name: torch.full(field_shape(table, name), start) for name, start in starts.items()
        }

    def filler(start: float):  # type: ignore[no-untyped-def]
        return lambda shape, dtype=torch.float32: torch.full(shape, start, dtype=dtype)

    created = creation(weight, list(starts), [filler(start) for start in starts.values()])
    if not isinstance(created, Mapping) or set(created) != set(starts):
        got = sorted(created) if isinstance(created, Mapping) else type(created).__name__
        raise ValueError(
            f"table {table.name!r}: slot_variable_creation_fn must return a dict with the keys "
            f"{sorted(starts)}, got {got}"
        )
    for name, value in created.items():
        what = f"table {table.name!r}: slot_variable_creation_fn for {name!r}"
        _check(what, value, field_shape(table, name))
    return values | {name: value.detach().clone() for name, value in created.items()}


def _call(initializer: Callable[..., Any], shape: tuple[int, int]) -> Any:
    """Call an initializer of one of three forms: `f(shape, dtype)`, torch's own factories such as
    `torch.zeros`, or one that fills a tensor in place, as those of `torch.nn.init` do."""
    try:
        first = next(iter(inspect.signature(initializer).parameters), None)
    except ValueError:  # a torch factory: written in C, no signature
        return initializer(shape, dtype=torch.float32)
    if first == "tensor":
        out = torch.empty(shape)
        initializer(out)
        return out
    return initializer(shape, torch.float32)


def truncated_normal(shape: tuple[int, int], key: str) -> Tensor:
    """A normal with standard deviation 1/√D, cut at two deviations (TF's default).

    Blocks of rows are drawn on their own, each from `key` and its number: any part of a table can be made
    without the rest, and the temporaries are those of a block.
    """
    deviation = 1.0 / math.sqrt(shape[1])
    out = torch.empty(shape)
    for block, start in enumerate(range(0, shape[0], _BLOCK_ROWS)):
        torch.nn.init.trunc_normal_(
            out[start : start + _BLOCK_ROWS],
            std=deviation,
            a=-2 * deviation,
            b=2 * deviation,
            generator=torch.Generator().manual_seed(_seed_of(f"{key}/{block}")),
        )
    return out


def _check(what: str, value: object, shape: tuple[int, int]) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} must return a torch.Tensor, got {type(value).__name__}")
    if value.shape != shape or value.dtype != torch.float32 or value.device.type != "cpu":
        raise ValueError(
            f"{what} must return a float32 CPU tensor of shape {list(shape)}, got {value.dtype} "
            f"{[*value.shape]} on {value.device}"
        )
    if not bool(value.isfinite().all()):
        row, column = (~value.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{what} returned {float(value[row, column])} at row {row}, column {column}"
        )


def _seed_of(key: str) -> int:
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1

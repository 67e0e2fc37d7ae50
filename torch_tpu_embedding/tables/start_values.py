"""Start values of tables and slots, made on the host and checked; only of the rows that are asked for.

Letters: V vocabulary, D dim, n rows held by this process.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config.declared import Initializer
from ..config.hashed_normal import seed_of, truncated_normal
from ..config.resolved import WEIGHT, Table, field_shape
from ..runtime import host
from .low_precision.rounding import nearest

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 1 << 16
_SEEN_ROWS = 4
_LARGE = 1 << 28  # bytes of a whole table made for the sake of a part
_SAME_EVERYWHERE = (torch.zeros, torch.ones, torch.nn.init.zeros_, torch.nn.init.ones_)


def start_values(
    table: Table,
    seed: int,
    ids: range | None = None,
    see: Callable[[Tensor], None] | None = None,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Start values of some rows of a table, a block of rows after the other.

    The values of a row depend on the seed, the table's name and the row alone: not on the other tables,
    nor on how many processes share the table.

    Args:
        ids: the rows wanted, in order; None for all.
        see: called with rows that an initializer of the user's made, the same ones in every process.

    The row of padding_idx starts as zeros. Fields in bfloat16 are rounded to nearest.

    Yields:
        (position in `ids` of the block's first row, field name → values): 'weight', then the slots.

    Raises:
        ValueError: an initializer returned something of another shape or type, or not finite.
    """
    halves = [name for name in table.fields if table.dtype_of(name) == torch.bfloat16]
    for start, values in _start_values(table, seed, ids, see):
        yield start, values | {name: nearest(values[name]) for name in halves}


def _start_values(
    table: Table, seed: int, ids: range | None, see: Callable[[Tensor], None] | None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The same before they are rounded."""
    ids = range(table.vocabulary_size) if ids is None else ids
    weights = _without_padding(table, ids, _weights(table, f"{seed}/{table.name}", ids, see))
    if table.optimizer is None:
        yield from ((start, {WEIGHT: weight}) for start, weight in weights)
        return
    starts = table.optimizer.slot_initial_values()
    creation = getattr(table.optimizer, "slot_variable_creation_fn", None)
    if creation is None:
        widths = {name: field_shape(table, name)[1] for name in starts}
        for start, weight in weights:
            slots = {
                name: torch.full(
                    (len(weight), widths[name]), value, dtype=torch.float32, device="cpu"
                )
                for name, value in starts.items()
            }
            yield start, {WEIGHT: weight, **slots}
        return
    weight = torch.cat([host.empty(0, table.dim), *(block for _, block in weights)])
    yield 0, {WEIGHT: weight, **_created_slots(table, creation, weight, starts)}


def table_values(table: Table, seed: int, ids: range | None = None) -> dict[str, Tensor]:
    """The blocks of `start_values` in one: field name → `[n, width]`."""
    blocks = [values for _, values in start_values(table, seed, ids)]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def _without_padding(
    table: Table, ids: range, blocks: Iterator[tuple[int, Tensor]]
) -> Iterator[tuple[int, Tensor]]:
    """The blocks with zeros in the row of padding_idx, as in `torch.nn.Embedding`."""
    padding = table.padding_row
    position = ids.index(padding) if padding is not None and padding in ids else -1
    for start, weight in blocks:
        if start <= position < start + len(weight):
            weight[position - start] = 0.0
        yield start, weight


def _weights(
    table: Table, key: str, ids: range, see: Callable[[Tensor], None] | None = None
) -> Iterator[tuple[int, Tensor]]:
    initializer, shape = table.config.initializer, (table.vocabulary_size, table.dim)
    if initializer is None:
        for start in range(0, max(len(ids), 1), _BLOCK_ROWS):
            yield start, truncated_normal(ids[start : start + _BLOCK_ROWS], table.dim, key)
        return
    whole = f"table {table.name!r}: its initializer"
    if not (initializer in _SAME_EVERYWHERE or _takes_partitions(initializer)):
        if len(ids) < shape[0] and 4 * math.prod(shape) >= _LARGE:
            logger.warning(
                "%s takes no partition_shape and partition_offset, so this process makes the whole table "
                "%s for the sake of %d rows; give it these two parameters",
                whole, [*shape], len(ids),
            )  # fmt: skip
        weight = _seeded(key, lambda: _call(initializer, shape))
        _check(whole, weight, shape)
        if see is not None:
            see(weight)
        # a copy, for the user may keep, or give twice, what was returned
        yield 0, weight.detach()[ids.start : ids.stop : ids.step].clone()
        return
    if see is not None and initializer not in _SAME_EVERYWHERE:
        few = (min(shape[0], _SEEN_ROWS), table.dim)
        make = partial(
            initializer, shape, torch.float32, partition_shape=few, partition_offset=(0, 0)
        )
        see(_seeded(f"{key}/0", make))
    if not len(ids):
        yield 0, host.empty(0, table.dim)
    for first in range(0, shape[0], _BLOCK_ROWS):
        rows = range(first, min(first + _BLOCK_ROWS, shape[0]))
        start, stop = (_position(ids, row) for row in (rows.start, rows.stop))
        if start == stop:
            continue
        block = (len(rows), table.dim)
        if initializer in _SAME_EVERYWHERE:
            make = partial(_call, initializer, block)
        else:
            offset = (first, 0)
            make = partial(
                initializer, shape, torch.float32, partition_shape=block, partition_offset=offset
            )
        weight = _seeded(f"{key}/{first}", make)
        _check(whole, weight, block)
        here = ids[start:stop]
        own = slice(here.start - first, here.stop - first, here.step)
        yield start, weight.detach()[own].clone()


def _position(ids: range, row: int) -> int:
    """The number of `ids` that are less than `row`."""
    return min(max(-(-(row - ids.start) // ids.step), 0), len(ids))


def _takes_partitions(initializer: Initializer) -> bool:
    try:
        return {"partition_shape", "partition_offset"} <= set(
            inspect.signature(initializer).parameters
        )
    except ValueError:  # a torch factory: written in C, no signature
        return False


def _seeded(key: str, make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # whatever the default is
        torch.manual_seed(seed_of(key))
        return make()


def _created_slots(
    table: Table, creation: Callable[..., Any], weight: Tensor, starts: Mapping[str, float]
) -> dict[str, Tensor]:
    """The slots that the user's `slot_variable_creation_fn` makes for the rows of this process."""

    def filler(start: float) -> Callable[..., Tensor]:
        return lambda shape, dtype=torch.float32: torch.full(
            shape, start, dtype=dtype, device="cpu"
        )

    with torch.device("cpu"):  # whatever the default is
        created = creation(weight, list(starts), [filler(start) for start in starts.values()])
    if not isinstance(created, Mapping) or set(created) != set(starts):
        got = sorted(created) if isinstance(created, Mapping) else type(created).__name__
        raise ValueError(
            f"table {table.name!r}: slot_variable_creation_fn must return a dict with the keys "
            f"{sorted(starts)}, got {got}"
        )
    for name, value in created.items():
        what = f"table {table.name!r}: slot_variable_creation_fn for {name!r}"
        _check(what, value, (len(weight), field_shape(table, name)[1]))
    return {name: value.detach().clone() for name, value in created.items()}


def _call(initializer: Callable[..., Any], shape: tuple[int, int]) -> Any:
    """Call an initializer of one of three forms: `f(shape, dtype)`, torch's own factories such as
    `torch.zeros`, or one that fills a tensor in place, as those of `torch.nn.init` do."""
    try:
        first = next(iter(inspect.signature(initializer).parameters), None)
    except ValueError:  # a torch factory: written in C, no signature
        return initializer(shape, dtype=torch.float32)
    if first == "tensor":
        out = host.empty(*shape)
        initializer(out)
        return out
    return initializer(shape, torch.float32)


def _remedy(value: Tensor, shape: tuple[int, int]) -> str:
    if value.shape != shape:
        return "; make it of the shape that the initializer is given"
    return "; let the initializer end in .to('cpu', torch.float32)"


def _check(what: str, value: object, shape: tuple[int, int]) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} must return a torch.Tensor, got {type(value).__name__}")
    if value.shape != shape or value.dtype != torch.float32 or value.device.type != "cpu":
        raise ValueError(
            f"{what} must return a float32 CPU tensor of shape {list(shape)}, got {value.dtype} "
            f"{[*value.shape]} on {value.device}{_remedy(value, shape)}"
        )
    if not bool(value.isfinite().all()):
        row, column = (~value.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{what} returned {float(value[row, column])} at row {row}, column {column}"
        )

"""`checkpoint.write_tables`: a checkpoint out of arrays, without an embedding or a device.

Converters are built on it. Letters: V vocabulary, S shards.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..config.resolved import WEIGHT
from ..config.serialization import optimizer_to_dict
from ..config.vocabulary import HashedVocabulary, vocabulary_to_dict
from ..distributed.placement import STRATEGIES, Strategy, shard_ids
from ..inputs.host_values import float32_copy, is_floating
from ..optimizers import Optimizer
from ..tables.low_precision.rounding import exact_or_reason
from ..vocabularies.saved_maps import SavedMap
from .format.extra import pack
from .format.index import IDS, TableEntry
from .format.map_columns import COLUMNS, DTYPES
from .format.run_directory import run_directory
from .format.safetensors_file import Hasher
from .format.schema import check_table
from .format.steps import step_path
from .rows import BLOCK_BYTES, block_rows
from .save import MAX_FILE_BYTES
from .writing.begin import begin, open_attempt, require_arguments, taken_back
from .writing.commit import Commit, finish
from .writing.file_plan import RowRange
from .writing.shard_writer import SaveAttempt, ShardWriter, write_manifest
from .writing.writer import Claim


class RowSource(Protocol):
    """Rows in id order: a tensor, an array, a memory map, `Reader.rows(…)`."""

    @property
    def shape(self) -> Sequence[int]:
        """`[V, width]`."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Rows start … stop-1, as a tensor or array of floats."""


@dataclass(frozen=True)
class TableSource:
    """One table to be written.

    Args:
        fields: 'weight' `[V, D]`, and slots by their names, `[V, D]` or `[V, 1]`. float32 is kept
            bit for bit, other floats are converted.
        optimizer: the optimizer that the slots belong to; a mapping is taken as another index has
            it.
        vocabulary: the vocabulary by which the rows of ids are found; a mapping is taken as another
            index has it; None if ids are row numbers.
        map: of a table with a DynamicVocabulary, whose vocabulary comes as a mapping, the map from ids to
            rows, as `Reader.map` gives it.
        dtype: in which the weights are written, 'float32' or 'bfloat16'; all of them must be numbers that
            it has.
        slot_dtype: the same of slots of several numbers a row.
    """

    fields: Mapping[str, RowSource]
    optimizer: Optimizer | Mapping[str, Any] | None = None
    vocabulary: HashedVocabulary | Mapping[str, Any] | None = None
    map: SavedMap | None = None
    dtype: str = "float32"
    slot_dtype: str = "float32"


def write_tables(
    directory: str | os.PathLike[str],
    step: int,
    tables: Mapping[str, TableSource | Mapping[str, RowSource]],
    *,
    extra: Any = None,
    num_shards: int = 1,
    strategy: Strategy = "mod",
    keep_last: int | None = None,
    overwrite: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
    updates: int | None = None,
) -> None:
    """Write `directory/step-<step>/` as `num_shards` processes would have saved it, reading every row once.

    Args:
        directory: of the run; made if it is not there.
        step: the number of the step, at least 0.
        tables: name → its fields.
        extra: as for `save`.
        num_shards: S, the number of processes as which to write.
        strategy: 'mod' or 'div', which ids go to which shard; as `sharding` of TPUEmbedding.
        keep_last: as for `save`.
        overwrite: as for `save`.
        max_file_bytes: size of the tensors in a file.
        updates: the number of updates of tables in bfloat16, as `Index.updates` says of another step: on it
            the random bits of the next one depend.

    Raises:
        FileExistsError: the step is complete already, and `overwrite` is not set.
        ValueError: a field has another shape than its table, a number that its dtype does not have, or an
            argument is out of range.
        OSError: the disk is full, or the like; the step stays incomplete.
    """
    root = run_directory(directory)
    sources = {
        name: given if isinstance(given, TableSource) else TableSource(given)
        for name, given in tables.items()
    }
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be 'mod' or 'div', got {strategy!r}")
    if not isinstance(num_shards, int) or num_shards < 1:
        raise ValueError(f"num_shards must be an int of at least 1, got {num_shards!r}")
    if updates is not None and (type(updates) is not int or updates < 0):
        raise ValueError(f"updates must be an int of at least 0, or None, got {updates!r}")
    entries = {name: _entry(name, source) for name, source in sources.items()}
    content = pack(extra) if extra is not None else None
    require_arguments(keep_last, max_file_bytes, 1.0, {"overwrite": overwrite})
    begin(root, step, overwrite)
    save_id = secrets.token_hex(6)
    attempts = [
        SaveAttempt(step_path(root, step), save_id, shard, num_shards)
        for shard in range(num_shards)
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(taken_back(attempts[0]))
        claim, newer = Claim(root), open_attempt(attempts[0], overwrite, stacklevel=2)
        hasher = stack.enter_context(Hasher())
        writers = [
            stack.enter_context(
                ShardWriter(attempt, _ranges(entries, strategy, attempt), max_file_bytes, hasher)
            )
            for attempt in attempts
        ]
        for name, source in sources.items():
            _deal(name, source, entries[name], strategy, writers)
            _deal_map(source, entries[name], strategy, writers)
        by_rank = [
            writer.finish(content if shard == 0 else None) for shard, writer in enumerate(writers)
        ]
        for attempt, written in zip(attempts, by_rank, strict=True):
            write_manifest(attempt, written)
    commit = Commit(
        step, strategy, entries, None, keep_last, overwrite, claim, newer, updates=updates
    )
    finish(attempts[0], commit, timeout=0.0)


def _entry(name: str, source: TableSource) -> TableEntry:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a table's name must be a string that is not empty, got {name!r}")
    if WEIGHT not in source.fields:
        raise ValueError(f"table {name!r}: there is no field 'weight', only {[*source.fields]}")
    shape = [int(size) for size in source.fields[WEIGHT].shape]
    widths = {}
    for field in (WEIGHT, *(each for each in source.fields if each != WEIGHT)):
        found = [int(size) for size in source.fields[field].shape]
        if len(found) != 2 or found[0] != shape[0] or not all(found) or field in (IDS, *DTYPES):
            raise ValueError(
                f"table {name!r}: {field!r} has shape {found}, expected [vocabulary_size, width] with "
                f"the vocabulary_size of the weight, {shape[0] if shape else shape}; reshape it"
            )
        widths[field] = found[1]
    optimizer = source.optimizer
    if isinstance(optimizer, Optimizer):
        optimizer = optimizer_to_dict(optimizer)
    vocabulary = source.vocabulary
    if isinstance(vocabulary, HashedVocabulary):
        vocabulary = vocabulary_to_dict(vocabulary)
    head = None if source.map is None else source.map.head
    if source.map is not None and source.map.vocabulary != shape[0]:
        raise ValueError(
            f"table {name!r}: the map is one of {source.map.vocabulary} rows, but the weight has "
            f"{shape[0]}; give the map of the same table"
        )
    for argument, given in (("dtype", source.dtype), ("slot_dtype", source.slot_dtype)):
        if given not in ("float32", "bfloat16"):
            raise ValueError(
                f"table {name!r}: {argument} must be 'float32' or 'bfloat16', got {given!r}"
            )
    entry = TableEntry(
        name,
        shape[0],
        widths[WEIGHT],
        widths,
        optimizer,
        source.dtype,
        source.slot_dtype,
        vocabulary=vocabulary,
        map=head,
    )
    check_table(entry.to_json())
    return entry


def _ranges(
    entries: Mapping[str, TableEntry], strategy: Strategy, attempt: SaveAttempt
) -> dict[str, list[RowRange]]:
    ranges: dict[str, list[RowRange]] = {}
    for name, entry in entries.items():
        ids = shard_ids(entry.vocabulary_size, attempt.size, attempt.rank, strategy)
        if ids:
            for field, width in {**entry.fields, **entry.map_fields}.items():
                size, dtype = entry.vocabulary_size, entry.stored_dtype(field)
                row_range = RowRange(name, field, ids, len(ids), width, size, False, dtype)
                ranges.setdefault(field, []).append(row_range)
    return ranges


def _deal(
    name: str,
    source: TableSource,
    entry: TableEntry,
    strategy: Strategy,
    writers: Sequence[ShardWriter],
) -> None:
    """Read a table once, in id order, and give each row to the shard that owns it."""
    at_once = block_rows(entry.fields)
    for start in range(0, entry.vocabulary_size, at_once):
        stop = min(start + at_once, entry.vocabulary_size)
        for field, width in entry.fields.items():
            what = f"table {name!r}: {field!r}"
            rows = _rows(what, source.fields[field], start, stop)
            if [*rows.shape] != [stop - start, width]:
                raise ValueError(
                    f"table {name!r}: rows {start} … {stop - 1} of {field!r} have shape "
                    f"{[*rows.shape]}, expected {[stop - start, width]}"
                )
            if entry.dtype_of(field) == "bfloat16":
                if reason := exact_or_reason(rows, f"{what}, rows {start} … {stop - 1}"):
                    raise ValueError(reason)
                rows = rows.bfloat16()
            _give(field, rows, start, entry, strategy, writers)


def _deal_map(
    source: TableSource, entry: TableEntry, strategy: Strategy, writers: Sequence[ShardWriter]
) -> None:
    """Read the map of a table once, and give that of each row to the shard that owns it."""
    if source.map is None or entry.map is None:
        return
    at_once = max(1, BLOCK_BYTES // (16 + entry.map.cells))
    for start in range(0, entry.vocabulary_size, at_once):
        some = range(start, min(start + at_once, entry.vocabulary_size))
        columns = {**source.map.read(some), "sketch": source.map.read_sketch(some)}
        for field in entry.map_fields:
            values = torch.from_numpy(columns[COLUMNS[field]])
            _give(field, values, start, entry, strategy, writers)


def _give(
    field: str,
    rows: Tensor,
    start: int,
    entry: TableEntry,
    strategy: Strategy,
    writers: Sequence[ShardWriter],
) -> None:
    """Give the rows of a field, from one on, to the shards that own them."""
    stop = start + len(rows)
    for shard, writer in enumerate(writers):
        ids = shard_ids(entry.vocabulary_size, len(writers), shard, strategy)
        first = ids.start + max(0, -(-(start - ids.start) // ids.step)) * ids.step
        mine = range(first, min(stop, ids.stop), ids.step)
        if mine:
            writer.write({field: rows[first - start : mine[-1] + 1 - start : ids.step]})


def _rows(what: str, source: RowSource, start: int, stop: int) -> Tensor:
    """Float32 rows in memory of their own."""
    rows: Any = source[start:stop]
    if not isinstance(rows, Tensor):
        rows = np.asarray(rows)
    if not is_floating(rows):
        raise ValueError(
            f"{what} gives rows of {rows.dtype}, expected floats; convert them, if none is above 2**24"
        )
    return float32_copy(rows)

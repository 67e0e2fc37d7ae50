"""`checkpoint.open`: the tables of a checkpoint in id order, whatever the shards that wrote it.

Needs no embedding and no device. Letters: V vocabulary, S shards.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...config.vocabulary import DynamicVocabulary
from ...vocabularies.saved_maps import SavedMap
from ..errors import REMEDY, CheckpointError, StepRemovedError
from ..format.extra import parted, unpack
from ..format.index import Index, TableEntry
from ..format.run_directory import run_directory
from ..format.steps import choose_step, complete_steps, index_path, step_path
from ..writing.attempts import is_published
from .open_files import OpenFiles
from .saved_map import MapInExtra, MapOfRows
from .step_reader import Field, StepFiles

_HASH_THREADS = 4
TRIES = 5
"""How often the newest step is chosen, if it is removed before it is open."""


class Rows:
    """One field of one table: has a `shape` `[V, width]`, and its slices are rows."""

    def __init__(self, reader: Reader, table: str, field: str) -> None:
        self._reader, self._table, self._field = reader, table, field
        entry = reader.tables[table]
        self.shape = (entry.vocabulary_size, entry.fields[field])

    def __getitem__(self, rows: slice) -> Tensor:
        return self._reader.read_ids(self._table, self._field, range(self.shape[0])[rows])


class Reader:
    """One step of a checkpoint, a delta together with the steps it stands on; `open` makes it.

    Not for use by several threads at once. A context manager.

    Args:
        root: the directory of the run, absolute.
        step: the number of the step.

    Raises:
        CheckpointError: an index is missing or damaged.
    """

    def __init__(self, root: Path, step: int) -> None:
        self.step = step
        self._chain = _open_chain(root, step)

    @property
    def index(self) -> Index:
        """The index of the step itself, not of its bases."""
        return self._chain[-1].index

    @property
    def tables(self) -> Mapping[str, TableEntry]:
        """Name → vocabulary, dim, fields and optimizer."""
        return self.index.tables

    def read(self, table: str, field: str, start: int, stop: int) -> Tensor:
        """Rows of the ids start … stop-1: float32 `[stop - start, width]`.

        Args:
            table: a name in `tables`.
            field: 'weight', or the name of a slot.
            start: the first id.
            stop: the id after the last one.

        Raises:
            KeyError: there is no such table or field, with those that there are.
            IndexError: the ids leave 0 … V-1.
        """
        return self.read_ids(table, field, range(start, stop))

    def read_ids(self, table: str, field: str, ids: range) -> Tensor:
        """Rows of the ids of a rising range: float32 `[len(ids), width]`; raises as `read` does.

        Args:
            table: a name in `tables`.
            field: 'weight', or the name of a slot.
            ids: rising, within 0 … V-1.
        """
        entry = self.tables.get(table)
        if entry is None or field not in entry.fields:
            have = [
                f"{name}.{each}" for name, entry in self.tables.items() for each in entry.fields
            ]
            raise KeyError(f"step {self.step} holds no {table}.{field}; it holds {', '.join(have)}")
        if ids and not (ids.step > 0 and ids[0] >= 0 and ids[-1] < entry.vocabulary_size):
            raise IndexError(
                f"{table}: ids {ids} are not within 0 … {entry.vocabulary_size - 1}, rising"
            )
        out = np.empty((len(ids), entry.fields[field]), np.float32)
        if ids:
            for step in self._chain:
                step.read_into(out, table, field, ids)
        return torch.from_numpy(out)

    def rows(self, table: str, field: str) -> Rows:
        """A field as something to slice, such as `write_tables` takes.

        Args:
            table: a name in `tables`.
            field: 'weight', or the name of a slot.
        """
        return Rows(self, table, field)

    def read_rows(self, table: str, field: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows that lie anywhere in a table: float32 `[n, width]`. No others are read, but for their
        neighbors in the pages of the files.

        Args:
            table: a name in `tables`.
            field: 'weight', or the name of a slot.
            rows: `[n]`, rising, within 0 … V-1.
        """
        out = np.empty((len(rows), self.tables[table].fields[field]), np.float32)
        for step in self._chain:
            step.pick_into(out, table, field, rows)
        return out

    def extra(self) -> Any:
        """The extra value given to `save`, or None; nothing but data is ever restored."""
        return self._extra[0]

    def map(self, table: str) -> SavedMap | None:
        """The map from ids to rows of a table with a DynamicVocabulary, as `TableSource` takes it; None
        where the step has none.

        Args:
            table: a name in `tables`.

        Raises:
            CheckpointError: it cannot be read.
        """
        if self.tables[table].map is not None:
            return MapOfRows(self._chain[-1], self.tables[table])
        if not _is_dynamic(self.tables[table]) or table not in self._extra[1]:
            return None
        try:
            return MapInExtra(self.tables[table], self._extra[1][table], self.index.num_shards)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"table {table!r}: its map cannot be read ({error})") from error

    @functools.cached_property
    def _extra(self) -> tuple[Any, Mapping[str, Any]]:
        """The caller's part of the extra file, and the maps that earlier versions have put beside it."""
        name = self.index.extra
        return (None, {}) if name is None else parted(unpack(self._chain[-1].path / name))

    def check(self, fields: Iterable[Field] | None = None) -> None:
        """Check headers and shapes of all or some fields, and that each id is there exactly once.

        Args:
            fields: pairs (table, field); None for all.

        Raises:
            CheckpointError: a file is not as the index says, or an id is missing or there twice.
        """
        for step in self._chain:
            step.check(self._fields(fields))

    def files(self, fields: Iterable[Field] | None = None) -> list[tuple[StepFiles, str]]:
        """The files of all or some fields, with the extra file.

        Args:
            fields: pairs (table, field); None for all.
        """
        chosen = [
            (step, name) for step in self._chain for name in step.files_of(self._fields(fields))
        ]
        if self.index.extra is not None:
            chosen.append((self._chain[-1], self.index.extra))
        return chosen

    @staticmethod
    def verify(files: Iterable[tuple[StepFiles, str]]) -> None:
        """Hash some of `files()`, a few at a time.

        Args:
            files: any of those that `files()` gives.

        Raises:
            CheckpointError: a file differs from the one that was written.
        """
        with ThreadPoolExecutor(min(_HASH_THREADS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(lambda each: each[0].verify([each[1]]), files):
                pass

    def require_there(self) -> None:
        """Raise if the step, or one that it stands on, was removed or replaced since it was opened.

        Raises:
            StepRemovedError: a step was removed or replaced.
        """
        for step in self._chain:
            try:
                there = is_published(step.path, step.index.save_id)
            except CheckpointError:
                continue  # damaged: another error
            if not there:
                raise _removed(step.path)

    def close(self) -> None:
        """Close the files."""
        for step in self._chain:
            step.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _fields(self, fields: Iterable[Field] | None) -> list[Field]:
        if fields is not None:
            return [*fields]
        return [
            (name, field)
            for name, entry in self.tables.items()
            for field in (*entry.fields, *entry.map_fields)
        ]


def open_checkpoint(
    directory: str | os.PathLike[str], step: int | None = None, *, verify: bool = True
) -> Reader:
    """Open a checkpoint for reading, without an embedding or a device.

    Args:
        directory: of the run, as given to `save`.
        step: None takes the newest complete one.
        verify: hash all files first; sizes, headers and coverage of the ids are checked in any case.

    Raises:
        CheckpointError: there is no such step, or it is damaged; names the file.
    """
    root = run_directory(directory)
    for _ in range(TRIES):
        try:
            return _open(root, choose_step(root, step), verify)
        except StepRemovedError:
            if step is not None:
                raise
    return _open(root, choose_step(root, step), verify)


def _open(root: Path, step: int, verify: bool) -> Reader:
    reader = open_step(root, step)
    try:
        reader.check()
        if verify:
            reader.verify(reader.files())
    except (CheckpointError, OSError):
        reader.close()
        reader.require_there()
        raise
    return reader


def open_step(root: Path, step: int) -> Reader:
    """A reader of a step that was complete a moment ago.

    Raises:
        StepRemovedError: it is not there any more.
        CheckpointError: an index is damaged, or a base is missing.
    """
    try:
        return Reader(root, step)
    except CheckpointError:
        if step not in complete_steps(root):
            raise _removed(step_path(root, step)) from None
        raise


def _removed(path: Path) -> StepRemovedError:
    return StepRemovedError(
        f"{path}: removed or replaced by a save while it was being read, nothing was loaded; load again, "
        "and give that save a larger keep_last if this happens often"
    )


def _is_dynamic(entry: TableEntry) -> bool:
    return entry.vocabulary is not None and entry.vocabulary["class"] == DynamicVocabulary.__name__


def _open_chain(root: Path, step: int) -> list[StepFiles]:
    """The chain of steps from the full step to the given one."""
    files = OpenFiles()
    chain = [StepFiles(root, step, files)]
    while (base := chain[0].index.base) is not None:
        above = chain[0]
        if not index_path(root, base.step).is_file() or base.step >= above.index.step:
            raise CheckpointError(
                f"{above.index_path}: a delta on step {base.step}, which is not there; {REMEDY}"
            )
        chain.insert(0, StepFiles(root, base.step, files))
        if chain[0].index.save_id != base.save_id:
            raise CheckpointError(
                f"{above.index_path}: a delta on step {base.step} as another run saved it; {REMEDY}"
            )
        for name, entry in above.index.tables.items():
            below = chain[0].index.tables.get(name)
            if below is None or _form(below) != _form(entry):
                raise CheckpointError(
                    f"{above.index_path}: table {name!r} is another than in its base, step "
                    f"{base.step}; {REMEDY}"
                )
    return chain


def _form(entry: TableEntry) -> tuple[object, ...]:
    return entry.vocabulary_size, entry.fields, entry.dtype, entry.slot_dtype

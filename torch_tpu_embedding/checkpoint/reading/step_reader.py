"""The files of one step: checked against the index, and read by ranges of ids.

Letters: V vocabulary, n rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...io.paths import naming
from ..errors import REMEDY, CheckpointError
from ..format.index import IDS, Index, Piece, check_coverage, read_index
from ..format.safetensors_file import TensorFile, hash_open, open_sized
from ..format.steps import index_path, step_path
from .open_files import OpenFiles

_READ_BYTES = 8 << 20

Field = tuple[str, str]
"""A table's name, and 'weight' or the name of a slot."""


class StepFiles:
    """One step, complete or a delta.

    Args:
        files: where its files are held open, with those of other steps.

    Raises:
        CheckpointError: the index is missing or damaged.
    """

    def __init__(self, directory: Path, step: int, files: OpenFiles | None = None) -> None:
        self.path = step_path(directory, step)
        self.index: Index = read_index(index_path(directory, step))
        self.index_path = index_path(directory, step)
        if self.index.step != step:
            raise CheckpointError(
                f"{self.index_path}: it is the index of step {self.index.step}; rename the directory back"
            )
        self._pieces: dict[Field, list[Piece]] = {}
        self._by_file: dict[str, list[Piece]] = {}
        for piece in self.index.pieces:
            self._pieces.setdefault((piece.table, piece.field), []).append(piece)
            self._by_file.setdefault(piece.file, []).append(piece)
        self._files = files or OpenFiles()

    @property
    def is_delta(self) -> bool:
        return self.index.base is not None

    def files_of(self, fields: Iterable[Field]) -> list[str]:
        """The files that hold these fields, the largest first, each once."""
        names = {piece.file for field in self._wanted(fields) for piece in self._of(field)}
        return sorted(names, key=lambda name: (-self.index.files[name].bytes, name))

    def check(self, fields: Iterable[Field]) -> None:
        """Check that the files of these fields are there, whole, and hold each id exactly once; all
        but the values.

        Raises:
            CheckpointError: naming file and key, or table and id.
        """
        wanted = self._wanted(fields)
        for name in self.files_of(wanted):
            self._check_file(name)
        for table, field in wanted:
            pieces, size = self._of((table, field)), self.index.tables[table].vocabulary_size
            changed = self._is_changed(table, field)
            ranges = {piece.ids for piece in pieces} if changed else [p.ids for p in pieces]
            problem = check_coverage(ranges, size, complete=not changed)
            if problem:
                raise CheckpointError(f"{self.index_path}: {table}.{field}: {problem}; {REMEDY}")
            if changed:
                self._check_changed(table, field)

    def verify(self, names: Iterable[str]) -> None:
        """Hash files and compare with the index.

        Raises:
            CheckpointError: a file has changed since it was written.
        """
        for name in names:
            path, stated = self.path / name, self.index.files[name].sha256
            found = self._hash(path, self.index.files[name].bytes)
            if found != stated:
                keys = [piece.key for piece in self._by_file.get(name, ())]
                more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
                holds = f" (it holds {', '.join(keys[:3])}{more})" if keys else ""
                raise CheckpointError(
                    f"{path}: damaged, its SHA-256 is {found[:12]}… where the index says "
                    f"{stated[:12]}…{holds}; {REMEDY}"
                )

    def read_into(self, out: NDArray[Any], table: str, field: str, ids: range) -> None:
        """Fill `out` `[n, width]` with the rows of `ids`; a delta fills only the rows that it holds."""
        if self._is_changed(table, field):
            self._overlay(out, table, field, ids)
            return
        for piece in self._of((table, field)):
            positions = _overlap(ids, piece.ids)
            if positions is not None:
                self._pick(out, *positions, piece)

    def pick_into(
        self, out: NDArray[np.float32], table: str, field: str, rows: NDArray[np.int64]
    ) -> None:
        """As `read_into`, for rows anywhere in the table, rising."""
        changed = self._is_changed(table, field)
        for piece in self._of((table, field)):
            at, there = _among(rows, piece.ids)
            if changed:
                at, there = self._among_changed(rows, table, piece)
            if len(at):
                out[at] = self._file(piece.file).pick(piece.key, there)

    def changed_ids(self, piece: Piece) -> NDArray[np.int64]:
        """The ids that a piece of ids lists, mapped from the file."""
        return self._file(piece.file).map_vector(piece.key)

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _hash(self, path: Path, size: int) -> str:
        file = self._files.find_open(path)
        if file is not None:  # what will be read, even if the step is removed meanwhile
            return file.sha256()
        descriptor = open_sized(path, size)
        try:
            with naming(path):
                return hash_open(descriptor)
        finally:
            os.close(descriptor)

    def _of(self, field: Field) -> list[Piece]:
        return self._pieces.get(field, [])

    def _wanted(self, fields: Iterable[Field]) -> list[Field]:
        wanted = list(fields)
        lists = ((table, IDS) for table, field in wanted if self._is_changed(table, field))
        return wanted + [each for each in dict.fromkeys(lists) if each not in wanted]

    def _is_changed(self, table: str, field: str) -> bool:
        """True where only changed rows are there: in a delta, but for the map of ids, which is whole."""
        entry = self.index.tables[table]
        return self.is_delta and (field in entry.fields or field not in entry.map_fields)

    def _file(self, name: str) -> TensorFile:
        return self._files.get(self.path / name, self.index.files[name].bytes)

    def _check_file(self, name: str) -> None:
        file = self._file(name)
        for piece in self._by_file[name]:
            entry = self.index.tables[piece.table]
            width = {IDS: 0, **entry.map_fields, **entry.fields}[piece.field]
            shape = (piece.rows, width) if width else (piece.rows,)
            wanted = (entry.stored_dtype(piece.field), shape)
            spec = file.tensors.get(piece.key)
            found = (spec.dtype, spec.shape) if spec is not None else None
            if found != wanted:
                shown = f"{found[0]} {[*found[1]]}" if found else "nothing"
                raise CheckpointError(
                    f"{self.path / name}: foreign, {shown} under {piece.key!r} where the index says "
                    f"{wanted[0]} {[*shape]}; {REMEDY}"
                )

    def _check_changed(self, table: str, field: str) -> None:
        """A delta's lists: as long as the rows, rising, and within the shard that wrote them."""
        rows = {piece.ids: 0 for piece in self._of((table, IDS))}
        for piece in sorted(self._of((table, field)), key=lambda each: each.start or 0):
            if rows.get(piece.ids) != piece.start:
                raise CheckpointError(
                    f"{self.index_path}: {piece.key!r} does not follow the rows before it; {REMEDY}"
                )
            rows[piece.ids] += piece.rows
        listed = dict.fromkeys(rows, 0)
        for piece in self._of((table, IDS)):
            listed[piece.ids] += piece.rows
        if rows != listed:
            raise CheckpointError(
                f"{self.index_path}: {table}.{field}: {sum(rows.values())} rows for "
                f"{sum(listed.values())} changed ids; {REMEDY}"
            )
        if field == IDS:
            self._check_rising(table)

    def _check_rising(self, table: str) -> None:
        last: dict[range, int] = {}
        for piece in sorted(self._of((table, IDS)), key=lambda each: each.start or 0):
            ids = np.asarray(self.changed_ids(piece))
            before = np.concatenate([[last.get(piece.ids, -1)], ids[:-1]])
            shard_ids = piece.ids
            outside = (
                (ids < shard_ids.start)
                | (ids > shard_ids[-1])
                | ((ids - shard_ids.start) % shard_ids.step != 0)
            )
            if (ids <= before).any() or outside.any():
                raise CheckpointError(
                    f"{self.path / piece.file}: damaged, {piece.key!r} is no rising list of ids of its "
                    f"shard; {REMEDY}"
                )
            last[piece.ids] = int(ids[-1])

    def _pick(self, out: NDArray[Any], positions: range, there: range, piece: Piece) -> None:
        """Read the rows `there` of a piece into out[positions], in bounded reads."""
        file = self._file(piece.file)
        if positions.step == there.step == 1:
            file.read_into(piece.key, there.start, out[positions.start : positions.stop])
            return
        row_bytes = out.strides[0]
        at_once = max(1, _READ_BYTES // (row_bytes * there.step))
        for start in range(0, len(there), at_once):
            rows, to = there[start : start + at_once], positions[start : start + at_once]
            read = file.read_rows(piece.key, rows[0], rows[-1] + 1)
            out[to.start : to[-1] + 1 : to.step] = read[:: rows.step]

    def _among_changed(
        self, rows: NDArray[np.int64], table: str, piece: Piece
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The positions of rows that a piece of changed rows has, and their positions in it."""
        found, there = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for listed in self._of((table, IDS)):
            if listed.ids == piece.ids:
                changed = self.changed_ids(listed)
                at = np.minimum(np.searchsorted(changed, rows), len(changed) - 1)
                number = at + (listed.start or 0) - (piece.start or 0)
                same = (changed[at] == rows) & (number >= 0) & (number < piece.rows)
                found.append(np.flatnonzero(same))
                there.append(number[found[-1]])
        return np.concatenate(found), np.concatenate(there)

    def _overlay(self, out: NDArray[Any], table: str, field: str, ids: range) -> None:
        for listed in self._of((table, IDS)):
            changed = self.changed_ids(listed)
            begin, end = np.searchsorted(changed, [ids[0], ids[-1] + 1])
            found = np.asarray(changed[begin:end]) - ids.start
            wanted = found % ids.step == 0
            if not wanted.any():
                continue
            first = int(begin) + (listed.start or 0)
            for piece in self._of((table, field)):
                if piece.ids != listed.ids or piece.start is None:
                    continue
                low = max(first, piece.start)
                high = min(first + len(found), piece.start + piece.rows)
                if low < high:
                    rows = self._file(piece.file).read_rows(
                        piece.key, low - piece.start, high - piece.start
                    )
                    part = slice(low - first, high - first)
                    out[found[part][wanted[part]] // ids.step] = rows[wanted[part]]


def _among(rows: NDArray[np.int64], ids: range) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of rows that are in a range, and their positions in the range."""
    here = (rows >= ids.start) & (rows < ids.stop) & ((rows - ids.start) % ids.step == 0)
    at = np.flatnonzero(here)
    return at, (rows[at] - ids.start) // ids.step


def _overlap(wanted: range, there: range) -> tuple[range, range] | None:
    """The positions in `wanted` and in `there` of the numbers that both contain, or None.

    >>> _overlap(range(1, 100, 3), range(0, 20, 2))  # 4, 10, 16
    (range(1, 6, 2), range(2, 9, 3))
    """
    if not wanted or not there:
        return None
    common = math.gcd(wanted.step, there.step)
    if (there.start - wanted.start) % common:
        return None
    step = wanted.step // common * there.step
    turns = (
        (there.start - wanted.start)
        // common
        * pow(wanted.step // common, -1, there.step // common)
    )
    first = wanted.start + wanted.step * (turns % (there.step // common))
    least = max(wanted.start, there.start)
    first += -(-max(0, least - first) // step) * step
    last = min(wanted[-1], there[-1])
    if first > last:
        return None
    count = (last - first) // step + 1

    def positions(numbers: range) -> range:
        start, stride = (first - numbers.start) // numbers.step, step // numbers.step
        return range(start, start + (count - 1) * stride + 1, stride)

    return positions(wanted), positions(there)

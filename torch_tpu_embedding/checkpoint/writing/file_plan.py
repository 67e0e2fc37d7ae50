"""The plan by which a shard is cut into files of bounded size.

Each field has files of its own: whoever wants weights alone neither reads nor hashes a slot. The tables
follow one another in them, so that a small table costs no file, and a tensor is cut where a file is full.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..format.index import IDS, Piece
from ..format.safetensors_file import ITEM_SIZES, TensorSpec
from ..rows import Shard, field_widths

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class RowRange:
    """A row range: the rows that one process has of one field of one table."""

    table: str
    field: str
    ids: range
    """The ids of the rows; for a delta, all ids of the shard."""
    rows: int
    width: int
    """Numbers a row; 0 stands for a vector."""
    vocabulary_size: int
    changed: bool = False
    """True for the changed rows of a delta, which are not all of `ids`."""
    dtype: str = "F32"
    """The dtype of the tensor, as safetensors names it."""

    @property
    def row_bytes(self) -> int:
        return ITEM_SIZES[self.dtype] * max(self.width, 1)

    def cut(self, start: int, stop: int, file: str) -> tuple[Piece, TensorSpec]:
        """Rows start … stop-1 as a piece of a file."""
        name, ids = f"{self.table}.{self.field}", self.ids
        if self.changed:
            key = f"{name}[{ids.start}:{ids.stop}:{ids.step}][changed {start}:{stop}]"
            piece = Piece(file, key, self.table, self.field, ids, stop - start, start)
        else:
            ids = ids[start:stop]
            whole = ids == range(self.vocabulary_size)
            key = name if whole else f"{name}[{ids.start}:{ids.stop}:{ids.step}]"
            piece = Piece(file, key, self.table, self.field, ids, stop - start)
        rows = stop - start
        shape = (rows, self.width) if self.width else (rows,)
        return piece, TensorSpec(key, self.dtype, shape)


@dataclass(frozen=True)
class PlannedFile:
    """One file to be written."""

    name: str
    pieces: tuple[Piece, ...]
    tensors: tuple[TensorSpec, ...]


def shard_ranges(
    shard: Shard, changed: Sequence[Tensor] | None = None
) -> dict[str, list[RowRange]]:
    """Field → its row ranges in this shard, in the order of tables; with `changed`, the rows of a delta."""
    ranges: dict[str, list[RowRange]] = {}
    for number, table in enumerate(shard.tables):
        ids = shard.ids(number)
        rows = len(ids) if changed is None else len(changed[number])
        widths = field_widths(table)
        if changed is not None:
            widths = {IDS: 0, **widths}
        for field, width in widths.items():
            row_range = RowRange(
                table.name,
                field,
                ids,
                rows,
                width,
                table.vocabulary_size,
                changed is not None,
                "I64" if field == IDS else _NAMES[table.dtype_of(field)],
            )
            if rows:
                ranges.setdefault(field, []).append(row_range)
    return ranges


def cut_into_files(ranges: Iterable[RowRange], name: str, max_file_bytes: int) -> list[PlannedFile]:
    """Deal the rows of one field to files.

    Args:
        name: of the files, with `{}` for their number.
        max_file_bytes: of tensors in a file; one row is always allowed.
    """
    files: list[PlannedFile] = []
    room = 0
    for row_range in ranges:
        start = 0
        while start < row_range.rows:
            if room < row_range.row_bytes:
                files.append(PlannedFile(name.format(f"{len(files):05d}"), (), ()))
                room = max(max_file_bytes, row_range.row_bytes)
            stop = min(row_range.rows, start + room // row_range.row_bytes)
            piece, spec = row_range.cut(start, stop, files[-1].name)
            last = files[-1]
            files[-1] = replace(last, pieces=(*last.pieces, piece), tensors=(*last.tensors, spec))
            room -= spec.num_bytes
            start = stop
    return files


def file_prefix(field: str, number: int) -> str:
    """The beginning of the names of a field's files."""
    return field if re.fullmatch("[A-Za-z0-9][A-Za-z0-9_]*", field) else f"field_{number}"

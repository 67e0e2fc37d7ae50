"""The shard files of one process in a save, and then a manifest that says that they are durable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...io import json_checks
from ..errors import CheckpointError
from ..format import durable
from ..format.index import FileEntry, Piece
from ..format.regular import read_regular
from ..format.safetensors_file import FileWriter, Hasher
from ..format.schema import check_manifest
from ..rows import TableBlock
from .file_plan import PlannedFile, RowRange, cut_into_files, file_prefix


@dataclass(frozen=True)
class SaveAttempt:
    """One attempt to save one step, and its file names; no later attempt uses any of them."""

    directory: Path
    """The directory of the step."""
    save_id: str
    rank: int
    size: int

    def file_name(self, prefix: str) -> str:
        """The name of a data file of this process, with `{}` for its number."""
        return f"{prefix}-{self.rank:05d}-of-{self.size:05d}-{{}}-{self.save_id}.safetensors"

    def manifest_path(self, rank: int) -> Path:
        """The file that appears when the files of process `rank` are durable, or when it has failed."""
        return self.directory / f"rank-{rank:05d}-{self.save_id}.json"

    @property
    def extra_name(self) -> str:
        return f"extra-{self.save_id}.pt"

    @property
    def failure_path(self) -> Path:
        """The file that appears when process 0 gives the attempt up."""
        return self.directory / f"failed-{self.save_id}.json"


@dataclass(frozen=True)
class ShardFiles:
    """The files that one process wrote, and the pieces of tables in them."""

    pieces: tuple[Piece, ...]
    files: Mapping[str, FileEntry]


class _FieldFiles:
    """The files of one field, written as one stream of bytes."""

    def __init__(self, directory: Path, files: Iterable[PlannedFile], hasher: Hasher) -> None:
        self._directory = directory
        self._files = list(files)
        self._hasher = hasher
        self._writer: FileWriter | None = None
        self._next = 0
        self.written: dict[str, FileEntry] = {}

    def write(self, rows: Tensor) -> None:
        data = rows.contiguous().reshape(-1).view(torch.uint8).numpy().data
        while len(data):
            if self._writer is None:
                planned = self._files[self._next]
                path = self._directory / planned.name
                self._writer = FileWriter(path, planned.tensors, self._hasher)
            count = min(len(data), self._writer.remaining)
            self._writer.write(data[:count])
            data = data[count:]
            if not self._writer.remaining:
                self.written[self._files[self._next].name] = self._writer.finish()
                self._next += 1
                self._writer = None

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
        for name in self.written:
            durable.remove(self._directory / name)


class ShardWriter:
    """Streams blocks of rows into the files of one process. A context manager: left by an error, it
    removes what it wrote.

    Args:
        ranges: field → the row ranges that will come, in the order of the blocks.
        max_file_bytes: of tensors in a file.
        hasher: may be shared by several writers.
    """

    def __init__(
        self,
        attempt: SaveAttempt,
        ranges: Mapping[str, list[RowRange]],
        max_file_bytes: int,
        hasher: Hasher,
    ) -> None:
        self._attempt = attempt
        self._pieces: list[Piece] = []
        self._fields: dict[str, _FieldFiles] = {}
        for number, (field, rows) in enumerate(ranges.items()):
            name = attempt.file_name(file_prefix(field, number))
            files = cut_into_files(rows, name, max_file_bytes)
            self._pieces += (piece for file in files for piece in file.pieces)
            self._fields[field] = _FieldFiles(attempt.directory, files, hasher)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, Exception):
            for each in self._fields.values():
                each.abandon()

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Write the next rows of some fields; the tensors must not change any more.

        Raises:
            OSError: the rows cannot be written.
        """
        for field, rows in values.items():
            self._fields[field].write(rows)

    def finish(self, extra: bytes | None = None) -> ShardFiles:
        """Put all files on the disk, with the extra file where this process writes it."""
        written = {
            name: entry for each in self._fields.values() for name, entry in each.written.items()
        }
        if missing := {piece.file for piece in self._pieces} - set(written):
            raise ValueError(f"{sorted(missing)}: fewer rows came than were announced")
        if extra is not None:
            name = self._attempt.extra_name
            durable.write_file(self._attempt.directory / name, extra)
            written[name] = FileEntry(len(extra), hashlib.sha256(extra).hexdigest())
        durable.sync_directory(self._attempt.directory)
        return ShardFiles(tuple(self._pieces), written)


def write_shard_files(
    attempt: SaveAttempt,
    ranges: Mapping[str, list[RowRange]],
    blocks: Iterable[TableBlock],
    max_file_bytes: int,
    extra: bytes | None = None,
) -> ShardFiles:
    """Write all shard files; on return they are on the disk. Arguments as in `ShardWriter`."""
    with Hasher() as hasher, ShardWriter(attempt, ranges, max_file_bytes, hasher) as writer:
        for _, values in blocks:
            writer.write(values)
        return writer.finish(extra)


def remove_shard_files(attempt: SaveAttempt, written: ShardFiles) -> None:
    """Remove the shard files and the manifest of a process; they will not become a checkpoint."""
    for path in (
        attempt.manifest_path(attempt.rank),
        *map(attempt.directory.joinpath, written.files),
    ):
        durable.remove(path)


def write_manifest(attempt: SaveAttempt, written: ShardFiles) -> None:
    """Tell process 0 that this process's shard files are durable."""
    described = {
        "pieces": [piece.to_json() for piece in written.pieces],
        "files": {name: vars(entry) for name, entry in written.files.items()},
    }
    durable.write_file(attempt.manifest_path(attempt.rank), json.dumps(described).encode())


def write_failure(path: Path, error: Exception) -> None:
    """Tell the waiting processes at once; if that fails too, their timeout ends their wait."""
    described = {"error": f"{type(error).__name__}: {error}"}
    try:
        durable.write_file(path, json.dumps(described).encode())
    except OSError as second:
        error.add_note(f"the other processes could not be told: {second}")


def read_manifest(path: Path) -> ShardFiles | str:
    """The shard files of a process, or the error of the process that failed to write them."""
    try:
        described: dict[str, Any] = json_checks.parse(read_regular(path))
        if isinstance(described, dict) and "error" in described:
            return str(described["error"])
        check_manifest(described, "")
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged, not what a process wrote ({error})") from error
    pieces = tuple(Piece.from_json(piece) for piece in described["pieces"])
    return ShardFiles(
        pieces,
        {
            name: FileEntry(each["bytes"], each["sha256"])
            for name, each in described["files"].items()
        },
    )

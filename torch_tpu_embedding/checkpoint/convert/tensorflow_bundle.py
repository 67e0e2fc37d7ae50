"""The files of a TensorFlow checkpoint, read and written with numpy alone.

A checkpoint ("tensor bundle") is `<prefix>.index`, a sorted table of protocol buffers, name → type, shape,
position and checksum, and `<prefix>.data-<i>-of-<n>`, the bytes of the tensors one after the other.
TensorFlow holds whole tensors while it reads or writes; here they are memory maps and blocks of rows.

Letters: V vocabulary, D dim.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from .tensorflow_encoding import (
    FLOAT32,
    INT64,
    STRING,
    Entry,
    Message,
    crc32c,
    mask,
    message,
    read_varint,
    slice_key,
    to_varint,
)
from .tensorflow_state import newest

_MAGIC = 0xDB4775248B80FB57
_FOOTER, _TRAILER = 48, 5
_REMEDY = "copy it again, or convert an older checkpoint"


def _read_index(path: Path) -> dict[bytes, bytes]:
    """Key → value of a sorted table."""
    data = path.read_bytes()
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError(
            f"{path}: not an index of a TensorFlow checkpoint, or cut short; {_REMEDY}"
        )
    at = len(data) - _FOOTER
    for _ in range(2):  # past the handle of the meta index, which is empty
        _, at = read_varint(data, at)
    found: dict[bytes, bytes] = {}
    for _, handle in _block(path, data, at):
        found.update(_block(path, handle, 0, data))
    return found


def _block(
    path: Path, handle: bytes, at: int, data: bytes | None = None
) -> list[tuple[bytes, bytes]]:
    """Keys and values of the block that handle[at:] points to."""
    data = handle if data is None else data
    offset, at = read_varint(handle, at)
    size, _ = read_varint(handle, at)
    block, trailer = data[offset : offset + size], data[offset + size : offset + size + _TRAILER]
    if trailer[:1] not in (b"", b"\0"):
        raise ValueError(f"{path}: compressed, which TensorFlow itself never does; {_REMEDY}")
    if (
        len(trailer) < _TRAILER
        or mask(crc32c(block + b"\0")) != struct.unpack("<I", trailer[1:])[0]
    ):
        raise ValueError(f"{path}: damaged, a block does not match its checksum; {_REMEDY}")
    end = len(block) - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    pairs: list[tuple[bytes, bytes]] = []
    key, at = b"", 0
    while at < end:
        shared, at = read_varint(block, at)
        more, at = read_varint(block, at)
        length, at = read_varint(block, at)
        key = key[:shared] + block[at : at + more]
        pairs.append((key, block[at + more : at + more + length]))
        at += more + length
    return pairs


class Rows:
    """A float32 tensor `[V, D]`; its slices are rows.

    Args:
        shape: `[V, D]`.
        pieces: (first row, first column, array) of the slices that it is stored in.
    """

    def __init__(self, shape: tuple[int, int], pieces: list[tuple[int, int, np.ndarray]]) -> None:
        self.shape, self._pieces = shape, pieces

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self.shape[0])
        if len(self._pieces) == 1:
            return self._pieces[0][2][start:stop:step]
        return self.take(np.arange(start, stop, step))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows of these numbers."""
        out = np.empty((len(rows), self.shape[1]), np.float32)
        for first, column, piece in self._pieces:
            here = (rows >= first) & (rows < first + len(piece))
            if here.any():
                out[here, column : column + piece.shape[1]] = piece[rows[here] - first]
        return out


class Bundle:
    """A checkpoint opened for reading.

    Args:
        prefix: without `.index`.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it is damaged, or was written on a big-endian machine.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._table = _read_index(Path(f"{prefix}.index"))
        header = Message(self._table.pop(b"", b""))
        if header.number(2):
            raise ValueError(f"{prefix}.index: of a big-endian machine, which is not supported")
        self._num_shards = header.number(1, 1)
        self.entries: Mapping[str, Entry] = {
            key.decode(): Entry.parse(value)
            for key, value in self._table.items()
            if not key.startswith(b"\0")
        }

    def rows(self, name: str) -> Rows:
        """A float32 tensor of two dimensions, as a memory map.

        Raises:
            ValueError: it is of another type or rank, or a file is missing, short or incomplete.
        """
        entry = self.entries[name]
        if entry.dtype != FLOAT32 or len(entry.shape) != 2:
            raise ValueError(
                f"{self.prefix}: {name!r} is {entry.type_name} {[*entry.shape]}, expected float32 "
                "[vocabulary_size, dim]; leave it out, or name another key"
            )
        pieces = []
        for part, extents in self._parts(name):
            starts = [start for start, _ in extents]
            sizes = [
                full - start if length < 0 else length
                for full, (start, length) in zip(entry.shape, extents, strict=True)
            ]
            if part.size != 4 * math.prod(sizes):
                raise ValueError(
                    f"{self.prefix}: {part.size} bytes of {name!r} for a shape of {sizes}; {_REMEDY}"
                )
            piece = self._bytes(name, part).view("<f4").reshape(sizes)
            pieces.append((starts[0], starts[1], piece))
        if sum(piece.size for _, _, piece in pieces) != math.prod(entry.shape):
            raise ValueError(f"{self.prefix}: slices of {name!r} are missing; {_REMEDY}")
        return Rows((entry.shape[0], entry.shape[1]), pieces)

    def text(self, name: str) -> bytes:
        """A string tensor of one element, its checksum verified.

        Raises:
            ValueError: it is something else, or damaged.
        """
        entry = self.entries[name]
        data = self._bytes(name, entry).tobytes()
        _, at = read_varint(data, 0)
        value = data[at + 4 :]
        crc, check = _text_checks(value)
        if entry.dtype != STRING or data[at : at + 4] != check or mask(crc) != entry.crc:
            raise ValueError(f"{self._file(entry)}: damaged, {name!r} is not one string; {_REMEDY}")
        return value

    def verify(self, name: str) -> None:
        """Check the bytes of a tensor of numbers against its checksum.

        Raises:
            ValueError: they differ; names file and key.
        """
        for part, _ in self._parts(name):
            if mask(crc32c(self._bytes(name, part))) != part.crc:
                raise ValueError(
                    f"{self._file(part)}: damaged, {name!r} does not match its checksum; {_REMEDY}"
                )

    def _parts(self, name: str) -> list[tuple[Entry, tuple[tuple[int, int], ...]]]:
        """The bytes of each part of a tensor, and the (start, length) of the part in each dimension."""
        entry = self.entries[name]
        if not entry.slices:
            return [(entry, tuple((0, -1) for _ in entry.shape))]
        parts = []
        for extents in entry.slices:
            stored = self._table.get(slice_key(name, extents))
            if stored is None:
                raise ValueError(f"{self.prefix}.index: no slice {extents} of {name!r}; {_REMEDY}")
            parts.append((Entry.parse(stored), extents))
        return parts

    def _file(self, entry: Entry) -> Path:
        return Path(f"{self.prefix}.data-{entry.shard:05d}-of-{self._num_shards:05d}")

    def _bytes(self, name: str, entry: Entry) -> np.ndarray:
        path = self._file(entry)
        size = path.stat().st_size if path.exists() else -1
        if size < entry.offset + entry.size:
            state = "missing" if size < 0 else f"cut short, {size} bytes"
            raise ValueError(f"{path}: {state}, but {name!r} lies in it; {_REMEDY}")
        if not entry.size:
            return np.empty(0, np.uint8)
        return np.memmap(path, np.uint8, "r", entry.offset, (entry.size,))


def _text_checks(value: bytes) -> tuple[int, bytes]:
    """The checksum of a string tensor, and the stored one of its length, which goes in between."""
    crc = crc32c(struct.pack("<I", len(value)))
    check = struct.pack("<I", mask(crc))
    return crc32c(check + value, crc), check


def find_prefix(path: Path) -> Path:
    """The prefix that a prefix, a file of a checkpoint, or the directory of a run or SavedModel means.

    Raises:
        FileNotFoundError: there is no checkpoint at this path.
    """
    bare = re.sub(r"\.(index|data-\d+-of-\d+)$", "", str(path))
    if os.path.exists(f"{bare}.index"):
        return Path(bare)
    recorded = newest(path)
    if recorded and (path / f"{recorded}.index").exists():
        return path / recorded
    if (path / "variables" / "variables.index").exists():
        return path / "variables" / "variables"
    raise FileNotFoundError(
        f"{path}: no TensorFlow checkpoint; give its prefix, as tf.train.latest_checkpoint prints it "
        "(there is a file <prefix>.index), or a directory with a file 'checkpoint'"
    )


@dataclass
class BundleWriter:
    """Writes a checkpoint of one data file; leaving the context makes it complete, or removes it.

    Raises:
        FileExistsError: there is one of this prefix.
    """

    prefix: Path
    _entries: dict[str, Entry] = field(default_factory=dict)

    def __enter__(self) -> BundleWriter:
        if os.path.exists(f"{self.prefix}.index"):
            raise FileExistsError(f"{self.prefix}.index: is there already; give another name")
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._data = open(f"{self.prefix}.data.partial", "wb")
        return self

    def rows(self, name: str, shape: tuple[int, int], blocks: Iterable[np.ndarray]) -> None:
        """Add a float32 tensor `[V, D]`, its rows in blocks."""
        offset, crc = self._data.tell(), 0
        for block in blocks:
            octets = np.ascontiguousarray(block, "<f4").reshape(-1).view(np.uint8)
            crc = crc32c(octets, crc)
            self._data.write(octets.data)
        size = self._data.tell() - offset
        self._entries[name] = Entry(FLOAT32, shape, 0, offset, size, mask(crc))

    def integer(self, name: str, value: int) -> None:
        """Add an int64 scalar."""
        self._add(name, INT64, data := struct.pack("<q", value), crc32c(data))

    def text(self, name: str, value: bytes) -> None:
        """Add a string scalar."""
        crc, check = _text_checks(value)
        self._add(name, STRING, to_varint(len(value)) + check + value, crc)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        partial = Path(self._data.name)
        try:
            with self._data:
                if error is not None:
                    return
                self._data.flush()
                os.fsync(self._data.fileno())
            partial.rename(f"{self.prefix}.data-00000-of-00001")
            index = Path(f"{self.prefix}.index.partial")
            index.write_bytes(self._index())
            index.rename(f"{self.prefix}.index")
        finally:
            partial.unlink(missing_ok=True)

    def _add(self, name: str, dtype: int, data: bytes, crc: int) -> None:
        self._entries[name] = Entry(dtype, (), 0, self._data.tell(), len(data), mask(crc))
        self._data.write(data)

    def _index(self) -> bytes:
        header = message((1, 1), (3, message((1, 1))))  # one data file, version 1
        pairs = [(b"", header)]
        pairs += sorted((name.encode(), e.serialize()) for name, e in self._entries.items())
        out = b""

        def block(of: list[tuple[bytes, bytes]]) -> bytes:
            """Append a block; gives its handle, which is its position and length."""
            nonlocal out
            data, starts = b"", []
            for key, value in of:
                starts.append(len(data))
                data += b"\0" + to_varint(len(key)) + to_varint(len(value)) + key + value
            data += struct.pack(f"<{len(starts) + 1}I", *starts, len(starts))
            handle = to_varint(len(out)) + to_varint(len(data))
            out += data + b"\0" + struct.pack("<I", mask(crc32c(data + b"\0")))
            return handle

        entries = block(pairs)
        handles = [block([]), block([(pairs[-1][0], entries)])]
        return out + b"".join(handles).ljust(_FOOTER - 8, b"\0") + struct.pack("<Q", _MAGIC)

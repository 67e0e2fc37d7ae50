"""safetensors files as streams: written front to back with a header known in advance, read by row ranges.

The format: 8 bytes with the header's length, a JSON header, then the tensors one after another, raw. The
whole of a file passes through SHA-256 on its way to the disk, in another thread.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...io import json_checks
from ...io.paths import naming
from ..errors import REMEDY, CheckpointError
from . import durable
from .index import FileEntry
from .regular import open_regular
from .schema import check_header

ITEM_SIZES = {"F32": 4, "BF16": 2, "I64": 8, "I32": 4, "U8": 1}
_DTYPES = {"F32": np.float32, "BF16": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
"""The dtypes that rows are read as."""
_MAX_HEADER = 100_000_000  # the safetensors library refuses longer ones
_HASH_CHUNK = 4 << 20
_WRITE_BACK_BYTES = 16 << 20


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a file: its key, one of `ITEM_SIZES`, and its shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return ITEM_SIZES[self.dtype] * math.prod(self.shape)


class Hasher:
    """Runs SHA-256 in threads of its own: hashing costs more than writing, and lets go of the GIL.

    There are two threads, for a save would wait for one: the files of two fields, which are written by
    turns, are hashed side by side. They are plain threads, for the pools of `concurrent.futures` close
    while the end of the program still waits for a save.
    """

    _THREADS = 2

    def __init__(self) -> None:
        self._threads = [_HashThread() for _ in range(self._THREADS)]
        self._given = 0

    def thread(self) -> _HashThread:
        """The thread for the next file."""
        self._given += 1
        return self._threads[self._given % len(self._threads)]

    def __enter__(self) -> Hasher:
        return self

    def __exit__(self, *error: object) -> None:
        for thread in self._threads:
            thread.stop()


class _HashThread:
    """Updates digests in the order of the calls."""

    def __init__(self) -> None:
        self._work: queue.Queue[tuple[Any, memoryview] | threading.Event | None] = queue.Queue(4)
        self._thread = threading.Thread(target=self._run, name="checkpoint-hash", daemon=True)
        self._thread.start()

    def update(self, digest: Any, data: memoryview) -> None:
        """Hash `data`, which must not change any more."""
        self._work.put((digest, data))

    def drain(self) -> None:
        """Return when all is hashed."""
        done = threading.Event()
        self._work.put(done)
        done.wait()

    def stop(self) -> None:
        """End the thread when all is hashed."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if isinstance(work, threading.Event):
                work.set()
            else:
                work[0].update(work[1])


class FileWriter:
    """Writes one file from a stream of bytes: the tensors in the order of `tensors`, nothing between."""

    def __init__(self, path: Path, tensors: Sequence[TensorSpec], hasher: Hasher) -> None:
        described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for spec in tensors:
            end = offset + spec.num_bytes
            described[spec.key] = {
                "dtype": spec.dtype, "shape": [*spec.shape], "data_offsets": [offset, end],
            }  # fmt: skip
            offset = end
        text = json.dumps(described, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes
        self.path = path
        self.remaining = offset
        """Bytes of tensors still to come."""
        self._size = 8 + len(text) + offset
        self._written = self._begun = 0
        self._temporary = path.with_name(path.name + durable.TEMPORARY)
        self._digest = hashlib.sha256()
        self._hasher = hasher.thread()
        self._descriptor: int | None = durable.create(self._temporary)
        try:
            self._put(memoryview(len(text).to_bytes(8, "little") + text))
        except Exception:
            self.abandon()
            raise

    def write(self, data: memoryview) -> None:
        """The next bytes, which must not change any more; at most `remaining`."""
        self._put(data)
        self.remaining -= len(data)

    def finish(self) -> FileEntry:
        """Sync the file and give it its name. The caller syncs the directory."""
        assert self._descriptor is not None
        assert self.remaining == 0
        with naming(self.path):
            durable.sync_file(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None
        self._hasher.drain()
        durable.rename(self._temporary, self.path)
        return FileEntry(self._size, self._digest.hexdigest())

    def abandon(self) -> None:
        """Remove what was written."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        durable.remove(self._temporary)

    def _put(self, data: memoryview) -> None:
        assert self._descriptor is not None
        self._hasher.update(self._digest, data)
        with naming(self.path):
            durable.write_all(self._descriptor, data)
            self._written += len(data)
            if self._written - self._begun >= _WRITE_BACK_BYTES:
                durable.start_writing(self._descriptor, self._begun, self._written)
                self._begun = self._written


def open_sized(path: Path, size: int) -> int:
    """Open a file that an index names; gives its descriptor.

    Raises:
        CheckpointError: it is not there, no regular file, or not of `size` bytes.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing, though the index names it; {REMEDY}") from None
    found = os.fstat(descriptor).st_size
    if found != size:
        os.close(descriptor)
        raise CheckpointError(
            f"{path}: torn or truncated, {found} bytes where the index says {size}; {REMEDY}"
        )
    return descriptor


def hash_open(descriptor: int) -> str:
    """SHA-256 of the content of an open file."""
    digest, buffer, position = hashlib.sha256(), bytearray(_HASH_CHUNK), 0
    while count := os.preadv(descriptor, [buffer], position):
        digest.update(memoryview(buffer)[:count])
        position += count
    return digest.hexdigest()


class TensorFile:
    """A safetensors file, open for reading rows.

    Raises:
        CheckpointError: it is not there, not of `size` bytes, or its header is not one.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._descriptor = -1
        self._descriptor = open_sized(path, size)
        found = os.fstat(self._descriptor)
        self._identity = found.st_dev, found.st_ino
        try:
            with naming(path):
                self.tensors, self._offsets = self._header(size)
        except ValueError as error:
            raise CheckpointError(
                f"{path}: damaged or foreign, its header is not safetensors ({error}); {REMEDY}"
            ) from error

    def open_again(self) -> None:
        """Open the file after `close`.

        Raises:
            CheckpointError: it is not there any more, or is another.
        """
        self._descriptor = open_sized(self.path, self._size)
        found = os.fstat(self._descriptor)
        if (found.st_dev, found.st_ino) != self._identity:
            self.close()
            raise CheckpointError(f"{self.path}: replaced while it was read; load again")

    def sha256(self) -> str:
        """The hash of the file; may run beside other readers."""
        with naming(self.path):
            return hash_open(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()

    def read_rows(self, key: str, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop-1 of a tensor, in memory of their own."""
        spec = self.tensors[key]
        rows: NDArray[Any] = np.empty((stop - start, *spec.shape[1:]), _DTYPES[spec.dtype])
        self.read_into(key, start, rows)
        return rows

    def read_into(self, key: str, start: int, rows: NDArray[Any]) -> None:
        """Fill `rows`, contiguous, with the rows from `start` on; those of 'BF16' become float32.

        Raises:
            CheckpointError: the file ends before that.
        """
        spec = self.tensors[key]
        if spec.dtype == "BF16":
            halves = np.empty(rows.shape, np.uint16)
            self._read_bytes(key, start, halves)
            rows[:] = (halves.astype(np.uint32) << 16).view(np.float32)
        else:
            self._read_bytes(key, start, rows)

    def _read_bytes(self, key: str, start: int, rows: NDArray[Any]) -> None:
        spec = self.tensors[key]
        row_bytes = ITEM_SIZES[spec.dtype] * math.prod(spec.shape[1:])
        position = self._offsets[key] + start * row_bytes
        view = rows.reshape(-1).view(np.uint8).data
        while len(view):
            with naming(self.path):
                count = os.preadv(self._descriptor, [view], position)
            if not count:
                raise CheckpointError(f"{self.path}: {key!r} ends early; {REMEDY}")
            view, position = view[count:], position + count

    def map_vector(self, key: str) -> NDArray[np.int64]:
        """An int64 vector, mapped read-only: its pages are read when they are needed."""
        shape = self.tensors[key].shape
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            return np.memmap(file, np.int64, "r", self._offsets[key], shape)

    def pick(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, anywhere in a tensor, by way of a map of the file; those of 'BF16' become float32."""
        spec = self.tensors[key]
        kept = np.uint16 if spec.dtype == "BF16" else _DTYPES[spec.dtype]
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            mapped = np.memmap(file, kept, "r", self._offsets[key], spec.shape)
        found: NDArray[Any] = np.asarray(mapped[rows])
        if spec.dtype == "BF16":
            found = (found.astype(np.uint32) << 16).view(np.float32)
        return found

    def _header(self, size: int) -> tuple[dict[str, TensorSpec], dict[str, int]]:
        length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        described = json_checks.parse(os.pread(self._descriptor, length, 8))
        if isinstance(described, dict):
            described.pop("__metadata__", None)
        check_header(described, "")
        tensors, offsets = {}, {}
        for key, each in described.items():
            spec = TensorSpec(key, each["dtype"], tuple(each["shape"]))
            begin, end = each["data_offsets"]
            if spec.dtype not in ITEM_SIZES:
                raise ValueError(f"{key!r} is of dtype {spec.dtype}")
            if end - begin != spec.num_bytes or not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(f"{key!r} of shape {[*spec.shape]} lies at {begin} … {end}")
            tensors[key], offsets[key] = spec, 8 + length + begin
        return tensors, offsets

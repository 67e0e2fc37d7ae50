"""Files that survive a crash: every change of the file system that a checkpoint makes is made here.

A file is written under a temporary name, synced, renamed, and then its directory is synced; after a crash
it is there in full or not at all.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

TEMPORARY = ".tmp"


def create(path: Path) -> int:
    """Open a new file for writing; gives its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all bytes, however many calls that takes."""
    while len(data):
        data = data[os.write(descriptor, data) :]


def start_writing(descriptor: int, start: int, stop: int) -> None:
    """Let the disk begin with bytes start … stop-1, so that the sync at the end finds little left."""
    # On Linux this advice starts the write-back of dirty pages and does not wait for it.
    os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def sync_file(descriptor: int) -> None:
    """Return when the file's bytes are on the disk."""
    os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file its final name; whoever looks sees all of it or none of it."""
    os.replace(source, target)


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, durably, those too that an attempt made and died before a sync."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in dict.fromkeys([*missing, path, path.parent]):
        sync_directory(each.parent)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_directory(path: Path) -> None:
    """Remove an empty directory; one that is not empty stays."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def write_file(path: Path, content: bytes) -> None:
    """A small file, whole or not at all, durable on return but for the name in its directory."""
    temporary = path.with_name(path.name + TEMPORARY)
    descriptor = create(temporary)
    try:
        try:
            write_all(descriptor, memoryview(content))
            sync_file(descriptor)
        finally:
            os.close(descriptor)
        rename(temporary, path)
    except Exception:
        remove(temporary)
        raise

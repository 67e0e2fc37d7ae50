"""Files that survive a crash: every change of the file system that a checkpoint makes is made here.

A file is written under a temporary name, synced, renamed, and then its directory is synced; after a crash
it is there in full or not at all. Nothing is written through a link, or into a file that was there before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from ..paths import naming

TEMPORARY = ".tmp"

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def create(path: Path) -> int:
    """Open a new file for writing; gives its descriptor.

    Raises:
        FileExistsError: there is something of that name, be it a link to nowhere.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o644)


def open_empty(path: Path) -> int:
    """Open an empty file that `create` made earlier; gives its descriptor.

    Raises:
        FileNotFoundError: it is not there any more.
        OSError: something else has its place.
    """
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size or found.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EEXIST, "something else has taken the place of this file", str(path))
    return descriptor


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


def link(source: Path, target: Path) -> None:
    """Give a file a second name, if that is free.

    Where the file system has no links, the file is renamed instead, after a look whether the name is free;
    two that do this at one moment are not told apart then.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        # A network file system that asked twice may report what it did as a failure.
        if not os.path.samestat(os.lstat(source), os.lstat(target)):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target)


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, durably, those too that an attempt made and died before a sync."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in dict.fromkeys([*missing, path, path.parent]):
        sync_directory(each.parent)


def remove(path: Path) -> bool:
    """Remove a file, if it is there; gives whether it was."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_directory(path: Path) -> None:
    """Remove an empty directory; one that is not empty stays."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def write_file(path: Path, content: bytes) -> None:
    """A small file, whole or not at all, durable on return but for the name in its directory."""
    temporary = path.with_name(path.name + TEMPORARY)
    descriptor = create(temporary)
    try:
        with naming(path):
            _put(descriptor, content)
        rename(temporary, path)
    except Exception:
        remove(temporary)
        raise


def fill_file(path: Path, content: bytes) -> None:
    """Put content into an empty file that `create` made; durable on return. Raises as `open_empty`."""
    with naming(path):
        _put(open_empty(path), content)


def _put(descriptor: int, content: bytes) -> None:
    try:
        write_all(descriptor, memoryview(content))
        sync_file(descriptor)
    finally:
        os.close(descriptor)

"""Reading files of a checkpoint: regular ones only, so that nothing hangs on a pipe or a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ...io.paths import naming
from ..errors import REMEDY, CheckpointError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}


def open_regular(path: Path) -> int:
    """Open a file for reading, through links too; gives its descriptor.

    Raises:
        FileNotFoundError: it is not there.
        CheckpointError: it is a pipe, a device or a directory.
    """
    _require_regular(path, os.stat(path))  # to open a device can already have effects
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_regular(path, os.fstat(descriptor))
    except CheckpointError:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path) -> bytes:
    """The content of a file; raises as `open_regular` does."""
    with os.fdopen(open_regular(path), "rb") as file, naming(path):
        return file.read()


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise CheckpointError(f"{path}: not a regular file but {kind}; {REMEDY}")

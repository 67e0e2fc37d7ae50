"""The base of each step, remembered from save to save.

Retention asks for the base of every step at every save. An index can be large and never changes once it is
there, so each is read once a process, and once more only if its file is another.
"""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from .index import Base, read_index
from .steps import index_path

_MOST = 1 << 14


@dataclass(frozen=True)
class Link:
    """One step of a chain."""

    save_id: str
    base: Base | None
    """The step that this one stands on, if it is a delta."""


def read_link(directory: Path, step: int) -> Link | None:
    """The link of a step, or None if it is not complete.

    Raises:
        CheckpointError: its index is damaged.
    """
    path = index_path(directory, step)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _read(
        path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    )


@functools.lru_cache(_MOST)
def _read(path: Path, identity: tuple[int, ...]) -> Link:
    index = read_index(path)
    return Link(index.save_id, index.base)

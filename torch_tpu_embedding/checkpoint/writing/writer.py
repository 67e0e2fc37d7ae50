"""The claim to a directory: only the job that began to save there last may save into it.

A job leaves a record in the directory, `.writer-<number>-<job>.json`, with a number above all that it
found; the highest one owns the directory. Whoever finds a higher record than its own must save no more.
There are no clocks and no signs of life: a job that was killed locks nobody out, whatever host it ran on,
and one that wakes up late finds that it was replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
import weakref
from pathlib import Path

from ...io import json_checks
from ..errors import CheckpointError
from ..format import durable
from ..format.regular import read_regular
from ..rows import HasShard

_RECORD = re.compile(r"\.writer-(\d{8,})-([0-9a-f]{12})\.json")


class Claim:
    """One job's right to save into a directory, until another takes it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mine = (0, "")
        job = secrets.token_hex(6)
        while not self.holds():
            found = _records(directory)
            self._mine = (1 + max((number for number, _ in found), default=0), job)
            _write(directory, self._mine)
        for each in _records(directory):
            if each < self._mine:
                durable.remove(_path(directory, each))

    def holds(self) -> bool:
        """True while no other job has taken the directory since."""
        return (
            self._mine > (0, "")
            and max(_records(self._directory), default=self._mine) <= self._mine
        )

    def require(self) -> None:
        """Raise unless this job still holds the directory.

        Raises:
            CheckpointError: another job has begun to save there; says which.
        """
        newest = max(_records(self._directory), default=self._mine)
        if newest > self._mine:
            raise CheckpointError(
                f"{self._directory}: another job saves here now ({_describe(self._directory, newest)}), "
                "and the directory belongs to the job that began last; save to another directory, or end "
                "the other job, load the newest step, and go on from there"
            )


_claims: weakref.WeakKeyDictionary[HasShard, dict[Path, Claim]] = weakref.WeakKeyDictionary()


def claim(embedding: HasShard, directory: Path) -> Claim:
    """The claim of this embedding's job, made with its first save to the directory since it was built, or
    loaded from there.

    Raises:
        CheckpointError: another job has taken the directory since.
        OSError: the record cannot be written.
    """
    mine = _claims.setdefault(embedding, {})
    if directory not in mine:
        mine[directory] = Claim(directory)
    mine[directory].require()
    return mine[directory]


def drop_claim(embedding: HasShard, directory: Path) -> None:
    """Let the embedding's next save claim the directory as a new job would, after a load from there."""
    _claims.get(embedding, {}).pop(directory, None)


def _records(directory: Path) -> list[tuple[int, str]]:
    found = map(_RECORD.fullmatch, os.listdir(directory))
    return [(int(match[1]), match[2]) for match in found if match]


def _path(directory: Path, record: tuple[int, str]) -> Path:
    return directory / f".writer-{record[0]:08d}-{record[1]}.json"


def _write(directory: Path, record: tuple[int, str]) -> None:
    """Write a record: its name says it all, the content is for people, and a full disk may take it."""
    described = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    descriptor = durable.create(_path(directory, record))
    try:
        with contextlib.suppress(OSError):
            durable.write_all(descriptor, memoryview(json.dumps(described).encode()))
    finally:
        os.close(descriptor)


def _describe(directory: Path, record: tuple[int, str]) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, CheckpointError):
        found = json_checks.parse(read_regular(_path(directory, record)))
        return f"process {found['process']} on {found['host']}, since {found['since']}"
    return f"record {_path(directory, record).name}"

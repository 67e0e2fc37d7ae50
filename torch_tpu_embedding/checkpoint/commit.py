"""How the parts of all processes become one complete step, through files alone.

Process 0 waits for the manifests of all parts, then writes the index; the others wait for that index. No
collective is used, so this may run in the background while the embedding's own group is busy with
training. Letter: S processes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import durable
from .errors import CheckpointError
from .index import Base, FileEntry, Index, Piece, TableEntry, read_index
from .part import Attempt, Part, read_manifest, write_failure
from .retention import remove_leftovers, remove_old_steps
from .steps import INDEX_NAME

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.5


@dataclass(frozen=True)
class Commit:
    """What process 0 needs to know to write the index."""

    step: int
    strategy: str
    tables: Mapping[str, TableEntry]
    base: Base | None
    keep_last: int | None


def finish(attempt: Attempt, commit: Commit, timeout: float) -> None:
    """Return when the step is complete; every process calls this after its manifest is written.

    Args:
        timeout: seconds to wait for the other processes.

    Raises:
        CheckpointError: a part failed or did not come; the step stays incomplete.
        OSError: the index could not be written.
    """
    if attempt.rank != 0:
        _await_index(attempt, timeout)
        return
    try:
        parts = [_await_part(attempt, rank, timeout) for rank in range(attempt.size)]
        _write_index(attempt, commit, parts)
    except Exception as error:
        _give_up(attempt, error)
        raise
    try:
        remove_leftovers(attempt.directory)
        if commit.keep_last is not None:
            remove_old_steps(attempt.directory.parent, commit.step, commit.keep_last)
    except (OSError, CheckpointError) as error:
        warnings.warn(
            f"step {commit.step} is complete, but tidying up failed: {error}", stacklevel=2
        )


def _await_part(attempt: Attempt, rank: int, timeout: float) -> Part:
    path = attempt.manifest_path(rank)
    if not _wait(path.exists, timeout):
        raise CheckpointError(
            f"{path}: did not appear within {timeout:g} s, so the part of process {rank} of "
            f"{attempt.size} is not there and the step stays incomplete; see the output of that process, "
            "and whether all processes see the same directory"
        )
    part = read_manifest(path)
    if isinstance(part, str):
        raise CheckpointError(
            f"{attempt.directory}: process {rank} of {attempt.size} failed to write its part: {part}"
        )
    return part


def _write_index(attempt: Attempt, commit: Commit, parts: list[Part]) -> None:
    files: dict[str, FileEntry] = {}
    pieces: list[Piece] = []
    for part in parts:
        files.update(part.files)
        pieces += part.pieces
    for name, entry in files.items():
        path = attempt.directory / name
        found = path.stat().st_size if path.exists() else None
        if found != entry.bytes:
            raise CheckpointError(
                f"{path}: {'missing' if found is None else f'{found} bytes'} after it was written with "
                f"{entry.bytes} bytes; nothing else may touch the directory of a save"
            )
    path = attempt.directory / INDEX_NAME
    if path.exists():
        raise CheckpointError(f"{path}: another save has completed this step meanwhile")
    index = Index(
        step=commit.step,
        save_id=attempt.save_id,
        strategy=commit.strategy,
        num_shards=attempt.size,
        tables=commit.tables,
        pieces=tuple(pieces),
        files=files,
        extra=attempt.extra_name if attempt.extra_name in files else None,
        base=commit.base,
    )
    durable.sync_directory(attempt.directory)
    durable.write_file(path, index.to_text().encode())
    durable.sync_directory(attempt.directory)


def _give_up(attempt: Attempt, error: Exception) -> None:
    """Tell the others, and remove the files of all parts, unless the index stands after all."""
    write_failure(attempt.failure_path, error)
    if not (attempt.directory / INDEX_NAME).exists():
        remove_attempt(attempt)


def remove_attempt(attempt: Attempt, pattern: str = "*") -> None:
    """Remove the files of an attempt that process 0 has given up. Nobody but process 0 writes an index, so
    none can come to name them.
    """
    for path in attempt.directory.glob(f"{pattern}-{attempt.save_id}.*"):
        if path != attempt.failure_path:
            durable.remove(path)


def _await_index(attempt: Attempt, timeout: float) -> None:
    path = attempt.directory / INDEX_NAME
    if not _wait(lambda: path.exists() or attempt.failure_path.exists(), timeout):
        raise CheckpointError(
            f"{path}: did not appear within {timeout:g} s, so the step is not complete; see the output of "
            "process 0"
        )
    if not path.exists():
        reason = read_manifest(attempt.failure_path)
        remove_attempt(attempt, f"*-{attempt.rank:05d}-of-*")
        raise CheckpointError(f"{attempt.directory}: process 0 gave up: {reason}")
    if read_index(path).save_id != attempt.save_id:
        raise CheckpointError(f"{path}: another save has completed this step meanwhile")


def _wait(ready: Callable[[], bool], timeout: float) -> bool:
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE_S
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    return True

"""How the files of all processes become one complete step, through files alone.

Process 0 waits for the manifests of all processes, then writes the index; the others wait for that index.
No collective is used, so this may run in the background while the embedding's own group is busy with
training. Letter: S processes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...distributed import lost_peers
from ..errors import CheckpointError
from ..format import durable
from ..format.index import Base, FileEntry, Index, Piece, TableEntry
from ..format.steps import INDEX_NAME
from . import attempts
from .retention import tidy
from .shard_writer import SaveAttempt, ShardFiles, read_manifest, write_failure
from .writer import Claim

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.5
_GRACE_S = 10.0
"""How long to wait for files once a process is known to be gone."""


@dataclass(frozen=True)
class Commit:
    """The knowledge with which process 0 writes the index and tidies up."""

    step: int
    strategy: str
    tables: Mapping[str, TableEntry]
    base: Base | None
    keep_last: int | None
    overwrite: bool = False
    claim: Claim | None = None
    """The job's right to save here; None on processes other than 0."""
    newer: Mapping[int, str | None] = field(default_factory=dict)
    """Later steps that this save drops → save id, or None where a step is unfinished."""
    updates: int | None = None
    """As in the index."""


def finish(attempt: SaveAttempt, commit: Commit, timeout: float) -> None:
    """Return when the step is complete; every process calls this after its manifest is written.

    Args:
        timeout: seconds to wait for the other processes.

    Raises:
        CheckpointError: another process failed or did not finish; the step stays incomplete.
        OSError: the index could not be written.
    """
    if attempt.rank != 0:
        _await_index(attempt, commit.overwrite, timeout)
        return
    try:
        by_rank = [_await_shard_files(attempt, rank, timeout) for rank in range(attempt.size)]
        _write_index(attempt, commit, by_rank)
        _publish(attempt, commit)
    except Exception as error:
        write_failure(attempt.failure_path, error)
        remove_attempt(attempt)
        raise
    try:
        durable.sync_directory(attempt.directory)
    except OSError as error:
        warnings.warn(
            f"step {commit.step} is complete, but its directory could not be synced ({error}), so a power "
            "cut may take it back; no older step was removed",
            stacklevel=2,
        )
        return
    try:
        tidy(
            attempt.directory.parent,
            commit.step,
            commit.keep_last,
            commit.newer,
            lambda: commit.claim is None or commit.claim.holds(),
        )
    except (OSError, CheckpointError) as error:
        warnings.warn(
            f"step {commit.step} is complete, but tidying up failed: {error}", stacklevel=2
        )


def _await_shard_files(attempt: SaveAttempt, rank: int, timeout: float) -> ShardFiles:
    path = attempt.manifest_path(rank)
    failure = _wait(path.exists, timeout)
    if failure is not None:
        raise CheckpointError(
            f"{path}: {failure}, so the files of process {rank} of {attempt.size} are missing and the step "
            "stays incomplete; see the output of that process, and whether all processes see the same "
            "directory"
        )
    written = read_manifest(path)
    if isinstance(written, str):
        raise CheckpointError(
            f"{attempt.directory}: process {rank} of {attempt.size} failed to write its files: {written}"
        )
    return written


def _write_index(attempt: SaveAttempt, commit: Commit, by_rank: list[ShardFiles]) -> None:
    files: dict[str, FileEntry] = {}
    pieces: list[Piece] = []
    for written in by_rank:
        files.update(written.files)
        pieces += written.pieces
    for name, entry in files.items():
        path = attempt.directory / name
        found = path.stat().st_size if path.exists() else None
        if found != entry.bytes:
            raise CheckpointError(
                f"{path}: {'missing' if found is None else f'{found} bytes'} after it was written with "
                f"{entry.bytes} bytes; nothing else may touch the directory of a save"
            )
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
        updates=commit.updates,
    )
    try:
        durable.fill_file(
            attempts.ticket_path(attempt.directory, attempt.save_id), index.to_text().encode()
        )
    except FileNotFoundError:
        raise _removed(attempt) from None
    durable.sync_directory(attempt.directory)


def _publish(attempt: SaveAttempt, commit: Commit) -> None:
    """Make the step complete; from here on it can be loaded."""
    if commit.claim is not None:
        commit.claim.require()
    _require_base(attempt, commit)
    try:
        attempts.complete(attempt.directory, attempt.save_id, commit.overwrite)
    except OSError as error:
        # A network file system may report as a failure what it has done.
        if not attempts.is_published(attempt.directory, attempt.save_id):
            if isinstance(error, FileNotFoundError):
                raise _removed(attempt) from None
            if isinstance(error, FileExistsError):
                raise CheckpointError(
                    f"{attempt.directory / INDEX_NAME}: another save has completed this step meanwhile"
                ) from None
            raise
    try:
        _require_base(attempt, commit)
    except CheckpointError:
        attempts.revoke(attempt.directory, attempt.save_id)
        raise


def _require_base(attempt: SaveAttempt, commit: Commit) -> None:
    base = commit.base
    if base is not None and not attempts.is_there(attempt.directory.parent, base):
        raise CheckpointError(
            f"{attempt.directory}: a delta on step {base.step}, which another job has removed meanwhile; "
            "save without since="
        )


def _removed(attempt: SaveAttempt) -> CheckpointError:
    return CheckpointError(
        f"{attempt.directory}: another job has saved a later step, and removed this unfinished one"
    )


def remove_attempt(attempt: SaveAttempt) -> None:
    """Give an attempt up; all its files go but the failure that the others read. For process 0 alone."""
    attempts.give_up(attempt.directory, attempt.save_id, keep=attempt.failure_path)


def _remove_own_files(attempt: SaveAttempt) -> None:
    """Remove the files of this process, when process 0 has given the attempt up."""
    for path in attempt.directory.glob(f"*-{attempt.rank:05d}-of-*-{attempt.save_id}.*"):
        durable.remove(path)


def _await_index(attempt: SaveAttempt, overwrite: bool, timeout: float) -> None:
    path = attempt.directory / INDEX_NAME

    def ended() -> bool:
        if attempt.failure_path.exists():
            return True
        # With overwrite, the index that is there may be the one to be replaced.
        return path.exists() and (
            not overwrite or attempts.is_published(attempt.directory, attempt.save_id)
        )

    failure = _wait(ended, timeout)
    if failure is not None:
        raise CheckpointError(
            f"{path}: {failure}, so the step is not complete; see the output of process 0"
        )
    if attempt.failure_path.exists():
        reason = read_manifest(attempt.failure_path)
        _remove_own_files(attempt)
        raise CheckpointError(f"{attempt.directory}: process 0 gave up: {reason}")
    if not attempts.is_published(attempt.directory, attempt.save_id):
        raise CheckpointError(f"{path}: another save has completed this step meanwhile")


def _wait(ready: Callable[[], bool], timeout: float) -> str | None:
    """Wait until something is ready; gives None, or why it is waited for no longer."""
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE_S
    failure = f"did not appear within {timeout:g} s"
    lost = None
    while not ready():
        # What a lost process had written is there, and the others may just be about to write.
        soon = time.monotonic() + _GRACE_S
        if lost is None and (lost := lost_peers.known()) is not None and soon < deadline:
            deadline, failure = soon, f"did not appear, and {lost}"
        if time.monotonic() > deadline:
            return failure
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    return None

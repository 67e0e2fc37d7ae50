"""`checkpoint.save`: every process streams its rows to files; process 0 makes them a step.

In the background nothing but files carries messages between processes, for collectives there would
mingle with those of training in an order that differs from process to process.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.resolved import Table
from ..config.serialization import optimizer_to_dict
from ..distributed.group import HostGroup, raise_together
from ..runtime import host
from .format import durable
from .format.extra import pack
from .format.index import TableEntry
from .format.run_directory import shared_directory
from .format.schema import check_table
from .format.steps import step_path
from .rows import Block, HasShard, Shard, all_blocks, changed_blocks, field_widths
from .writing.background import SaveHandle, settle
from .writing.begin import begin, open_attempt, require_ticket, taken_back
from .writing.commit import Commit, finish, remove_attempt
from .writing.delta_bases import base_and_epoch, remember
from .writing.file_plan import Run, shard_runs
from .writing.shard_writer import Attempt, remove_part, write_failure, write_manifest, write_part
from .writing.writer import claim

MAX_FILE_BYTES = 2 << 30
TIMEOUT_S = 1800.0


def save(
    embedding: HasShard,
    directory: str | os.PathLike[str],
    step: int,
    extra: Any = None,
    *,
    keep_last: int | None = None,
    since: int | None = None,
    overwrite: bool = False,
    asynchronous: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
    timeout: float = TIMEOUT_S,
) -> SaveHandle:
    """Save all tables and slots as `directory/step-<step>/`; all processes call this together.

    The step is complete, and visible to `load`, only when everything is on the disk. Memory: a few
    blocks of rows; with `asynchronous` a copy of this process's rows.

    Args:
        directory: of the run, seen by all processes; in a local or mounted file system.
        extra: tensors, numbers, strings, numpy's numbers and arrays, and dicts, lists and tuples of them
            (dense model, optimizer, place in the data); that of process 0 is saved.
        keep_last: once this step is complete, keep it and the newest before it, this many in all
            (and what their deltas stand on), and remove what dead attempts left behind.
        since: write only the rows changed since this step, which this embedding saved or loaded in
            this run; the step can then be loaded as long as that one is there.
        overwrite: this step replaces a complete one of the same number, and once it is complete, all
            later steps that were complete before the call are removed: for a run that went back to an
            earlier step and trained on from there.
        asynchronous: copy the rows, return, and write in the background. The next save or load,
            `wait()` and the end of the program wait for it and raise its failure.
        max_file_bytes: size of the tensors in a file.
        timeout: seconds that the processes wait for one another's files.

    Raises:
        FileExistsError: the step is complete already, and `overwrite` is not set.
        ValueError: an argument is out of range, or differs between processes, or `extra` holds something
            else, with its place in it.
        CheckpointError, OSError: the step could not be saved; it stays incomplete (with `overwrite`, as
            it was). Among the causes: another job has begun to save to this directory.
    """
    shard = embedding.shard
    group, what = shard.group, f"checkpoint.save of step {step!r}"
    root = shared_directory(group, what, directory)
    error = settle(embedding, root)
    base, epoch, content, mine, newer = None, 0, None, None, {}
    attempt = Attempt(step_path(root, step), secrets.token_hex(6), group.rank, group.size)
    try:
        if error is None:
            begin(root, step, keep_last, max_file_bytes, overwrite)
            if since is not None:
                base, epoch = base_and_epoch(embedding, root, since, step)
            if group.rank == 0:
                content = pack(extra) if extra is not None else None
                mine = claim(embedding, root)
                newer = open_attempt(attempt, overwrite)
    except Exception as caught:
        error = caught
    same = {"step": step, "since": since, "overwrite": overwrite, "asynchronous": asynchronous}
    with taken_back(attempt):
        raise_together(group, what, error)
        save_id, theirs = _agree(group, same, (attempt.save_id, root))
        attempt = replace(attempt, save_id=save_id)
        entries = table_entries(shard.tables)
        commit = Commit(step, shard.strategy, entries, base, keep_last, overwrite, mine, newer)
        job = None
        try:
            require_ticket(attempt, theirs)
            changed = _changed_rows(shard, epoch) if base is not None else None
            new_epoch = shard.epoch()
            blocks = all_blocks(shard) if changed is None else changed_blocks(shard, changed)
            if asynchronous:
                blocks = _draining([*blocks])
            runs = shard_runs(shard, changed)
            job = _Job(attempt, commit, runs, blocks, content, max_file_bytes, timeout)
        except Exception as caught:
            error = caught
        raise_together(group, what, error)
    assert job is not None
    handle = SaveHandle(embedding, root, step, group.rank)
    done = functools.partial(remember, embedding, root, step, attempt.save_id, new_epoch)
    if asynchronous:
        handle.start(lambda: job.run(done))
        return handle
    _together(group, what, job.write, job.give_up)
    # The others learn of the index by the collective, not by waiting for the file to show.
    _together(group, what, job.finish if group.rank == 0 else lambda: None)
    done()
    return handle


@dataclass
class _Job:
    """The writing half of a save: no collectives, and nothing of the embedding but the blocks."""

    attempt: Attempt
    commit: Commit
    runs: dict[str, list[Run]]
    blocks: Iterable[Block]
    extra: bytes | None
    max_file_bytes: int
    timeout: float

    def write(self) -> None:
        """This process's files, and the manifest that says that they are durable; all or nothing."""
        part = write_part(self.attempt, self.runs, self.blocks, self.max_file_bytes, self.extra)
        try:
            write_manifest(self.attempt, part)
        except Exception:
            remove_part(self.attempt, part)
            raise

    def give_up(self) -> None:
        """Remove what all wrote. Process 0 does it: then it cannot be about to write the index."""
        if self.attempt.rank == 0:
            remove_attempt(self.attempt)
            durable.remove_directory(self.attempt.directory)

    def finish(self) -> None:
        """Return when the step is complete."""
        finish(self.attempt, self.commit, self.timeout)

    def run(self, done: Callable[[], None]) -> None:
        """All of it in the background; a failure is told to process 0 through a file."""
        try:
            self.write()
        except Exception as error:
            write_failure(self.attempt.manifest_path(self.attempt.rank), error)
            if self.attempt.rank == 0:
                write_failure(self.attempt.failure_path, error)
            raise
        self.finish()
        done()


def table_entries(tables: Sequence[Table]) -> dict[str, TableEntry]:
    """Name → what the index says of a table.

    Raises:
        ValueError: an option of an optimizer cannot be written as JSON.
    """
    entries = {}
    for table in tables:
        optimizer = optimizer_to_dict(table.optimizer)
        entry = TableEntry(
            table.name, table.vocabulary_size, table.dim, field_widths(table), optimizer
        )
        check_table(vars(entry))
        entries[table.name] = entry
    return entries


def _agree(
    group: HostGroup, arguments: dict[str, Any], proposed: tuple[str, Path]
) -> tuple[str, Path]:
    """The save id and the directory of process 0, after all processes were found to save the same thing."""
    said = group.gather_objects((arguments, proposed))
    for rank, (theirs, _) in enumerate(said):
        for name, value in theirs.items():
            if value != said[0][0][name]:
                raise ValueError(
                    f"checkpoint.save: {name}={value!r} on process {rank}, but {said[0][0][name]!r} on "
                    "process 0; all processes must make the same call"
                )
    agreed: tuple[str, Path] = said[0][1]
    return agreed


def _changed_rows(shard: Shard, epoch: int) -> list[Tensor]:
    """Per table, the local rows that a delta must hold."""
    return [
        host.arange(len(shard.ids(number)))
        if table.optimizer is not None and table.optimizer.moves_all_rows
        else shard.touched_since(number, epoch)
        for number, table in enumerate(shard.tables)
    ]


def _draining(blocks: list[Block]) -> Iterator[Block]:
    """Give the blocks one by one and let go of each, so that the copy shrinks as it is written."""
    blocks.reverse()
    while blocks:
        yield blocks.pop()


def _together(
    group: HostGroup,
    what: str,
    work: Callable[[], None],
    give_up: Callable[[], None] | None = None,
) -> None:
    """Do `work` on all processes; where one fails, give up and raise on all."""
    error = None
    try:
        work()
    except Exception as caught:
        error = caught
    try:
        raise_together(group, what, error)
    except Exception:
        if give_up is not None:
            give_up()
        raise

"""`checkpoint.save`: every process streams its rows to files; process 0 makes them a step.

First all processes prepare together: they check everything that can be checked, open a save attempt and
plan the files. Then they write. In the background nothing but files carries messages between processes, for
collectives there would mingle with the collectives of training in an order that differs from process to
process.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.resolved import Table
from ..config.serialization import optimizer_to_dict
from ..config.vocabulary import vocabulary_to_dict
from ..distributed.group import HostGroup, together
from ..runtime import host
from ..vocabularies.saved_maps import MapHead
from .format import durable
from .format.extra import pack
from .format.index import Base, TableEntry
from .format.run_directory import shared_directory
from .format.schema import check_table
from .format.steps import require_step, step_path
from .maps import live_vocabularies
from .open_steps import warn_of_unsaved
from .rows import HasShard, Shard, TableBlock, all_blocks, changed_blocks, field_widths
from .writing.background import SaveHandle, wait_before
from .writing.begin import begin, open_attempt, require_arguments, require_ticket, taken_back
from .writing.commit import Commit, finish, remove_attempt
from .writing.delta_bases import base_and_mark, remember
from .writing.file_plan import RowRange, shard_ranges
from .writing.map_blocks import MapsToSave, maps_to_save
from .writing.shard_writer import (
    SaveAttempt,
    remove_shard_files,
    write_failure,
    write_manifest,
    write_shard_files,
)
from .writing.writer import Claim, claim

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
        embedding: a TPUEmbedding, or anything else that has a `shard`.
        directory: of the run, seen by all processes; in a local or mounted file system.
        step: the number of the step, at least 0.
        extra: tensors, numbers, strings, numpy's numbers and arrays, and dicts, lists and tuples of them
            (dense model, optimizer, position in the data); that of process 0 is saved.
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
    group, what = embedding.shard.group, f"checkpoint.save of step {step!r}"
    root = shared_directory(group, what, directory)
    arguments = _Arguments(
        step, extra, keep_last, since, overwrite, asynchronous, max_file_bytes, timeout
    )
    warn_of_unsaved(embedding.shard)
    job = _prepare(embedding, root, arguments, what)
    handle = SaveHandle(embedding, root, step, group.rank)
    if asynchronous:
        handle.start(job.run)
    else:
        _write(job, group, what)
    return handle


@dataclass(frozen=True)
class _Arguments:
    """The arguments of `save` but for the embedding and the directory."""

    step: int
    extra: Any
    keep_last: int | None
    since: int | None
    overwrite: bool
    asynchronous: bool
    max_file_bytes: int
    timeout: float

    def check(self) -> None:
        """Raise a ValueError for one that is out of range, before anything is written."""
        require_step("step", self.step)
        flags = {"overwrite": self.overwrite, "asynchronous": self.asynchronous}
        require_arguments(self.keep_last, self.max_file_bytes, self.timeout, flags)

    def common(self) -> dict[str, Any]:
        """Name → value of each argument that must be the same on all processes."""
        return {
            name: getattr(self, name) for name in ("step", "since", "overwrite", "asynchronous")
        }


def _prepare(embedding: HasShard, root: Path, arguments: _Arguments, what: str) -> _Job:
    """Check everything and open the save attempt: the job that then only has to write.

    A failure on one process fails on all, and leaves the directory as it was.
    """
    group = embedding.shard.group
    directory = step_path(root, arguments.step)
    attempt = SaveAttempt(directory, secrets.token_hex(6), group.rank, group.size)
    maps = maps_to_save(embedding.shard, live_vocabularies(embedding.shard))
    with taken_back(attempt):
        with together(group, what):
            wait_before(embedding, root)
            opened = _open(embedding, attempt, arguments)
        save_id, root_there = _agree(group, arguments.common(), (attempt.save_id, root))
        attempt = replace(attempt, save_id=save_id)
        with together(group, what):
            require_ticket(attempt, root_there)
            return _plan(embedding, attempt, arguments, opened, maps)


@dataclass(frozen=True)
class _Opened:
    """The findings of a process that has opened a save attempt, and its claim to the directory."""

    base: Base | None
    mark: int
    extra: bytes | None = None
    claim: Claim | None = None
    newer: Mapping[int, str | None] = field(default_factory=dict)


def _open(embedding: HasShard, attempt: SaveAttempt, arguments: _Arguments) -> _Opened:
    """Check the arguments and make the step's directory; process 0 also claims the run and its ticket."""
    root, step, since = attempt.directory.parent, arguments.step, arguments.since
    arguments.check()
    extra = None
    base, mark = (None, 0) if since is None else base_and_mark(embedding, root, since, step)
    if attempt.rank == 0 and arguments.extra is not None:
        extra = pack(arguments.extra)
    begin(root, step, arguments.overwrite)
    if attempt.rank != 0:
        return _Opened(base, mark)
    mine = claim(embedding, root)
    newer = open_attempt(attempt, arguments.overwrite, stacklevel=4)  # the caller of `save`
    return _Opened(base, mark, extra, mine, newer)


def _plan(
    embedding: HasShard,
    attempt: SaveAttempt,
    arguments: _Arguments,
    opened: _Opened,
    maps: MapsToSave,
) -> _Job:
    """Decide which rows go to which files; rows that change from here on belong to the next delta."""
    shard, root, step = embedding.shard, attempt.directory.parent, arguments.step
    changed = None if opened.base is None else _changed_rows(shard, opened.mark)
    new_mark = shard.set_mark()
    rows = all_blocks(shard) if changed is None else changed_blocks(shard, changed)
    blocks = itertools.chain(rows, maps.blocks(shard))
    commit = Commit(
        step,
        shard.strategy,
        table_entries(shard.tables, maps.heads),
        opened.base,
        arguments.keep_last,
        arguments.overwrite,
        opened.claim,
        opened.newer,
        getattr(shard, "updates", None),
    )
    return _Job(
        attempt,
        commit,
        {**shard_ranges(shard, changed), **maps.ranges(shard)},
        _draining([*blocks]) if arguments.asynchronous else blocks,
        opened.extra,
        arguments.max_file_bytes,
        arguments.timeout,
        functools.partial(remember, embedding, root, step, attempt.save_id, new_mark),
    )


def _write(job: _Job, group: HostGroup, what: str) -> None:
    """Write the files of all processes and complete the step, or give it up on all of them."""
    try:
        with together(group, what):
            job.write()
    except Exception:
        job.give_up()
        raise
    # The others learn of the index by the collective, not by waiting for the file to show.
    with together(group, what):
        if group.rank == 0:
            job.finish()
    job.remember()


@dataclass
class _Job:
    """The writing half of a save. It makes no collectives and reads the embedding only through `blocks`."""

    attempt: SaveAttempt
    commit: Commit
    ranges: dict[str, list[RowRange]]
    blocks: Iterable[TableBlock]
    extra: bytes | None
    max_file_bytes: int
    timeout: float
    remember: Callable[[], None]
    """Note the step as a base for deltas, once it is complete."""

    def write(self) -> None:
        """Write this process's files, and the manifest that says that they are durable; all or nothing."""
        written = write_shard_files(
            self.attempt, self.ranges, self.blocks, self.max_file_bytes, self.extra
        )
        try:
            write_manifest(self.attempt, written)
        except Exception:
            remove_shard_files(self.attempt, written)
            raise

    def give_up(self) -> None:
        """Remove the files of all processes; process 0 does it, which then cannot be writing the index."""
        if self.attempt.rank == 0:
            remove_attempt(self.attempt)
            durable.remove_directory(self.attempt.directory)

    def finish(self) -> None:
        """Return when the step is complete."""
        finish(self.attempt, self.commit, self.timeout)

    def run(self) -> None:
        """Write and finish in the background; a failure is told to process 0 through a file."""
        try:
            self.write()
        except Exception as error:
            write_failure(self.attempt.manifest_path(self.attempt.rank), error)
            if self.attempt.rank == 0:
                write_failure(self.attempt.failure_path, error)
            raise
        self.finish()
        self.remember()


def table_entries(tables: Sequence[Table], maps: Mapping[int, MapHead]) -> dict[str, TableEntry]:
    """Name → the entry of each table in the index.

    Raises:
        ValueError: an option of an optimizer cannot be written as JSON.
    """
    entries = {}
    for number, table in enumerate(tables):
        optimizer = optimizer_to_dict(table.optimizer)
        entry = TableEntry(
            table.name,
            table.vocabulary_size,
            table.dim,
            field_widths(table),
            optimizer,
            table.dtype_name,
            table.slot_dtype_name,
            vocabulary=vocabulary_to_dict(table.config.vocabulary),
            map=maps.get(number),
        )
        check_table(entry.to_json())
        entries[table.name] = entry
    return entries


def _agree(
    group: HostGroup, arguments: dict[str, Any], proposed: tuple[str, Path]
) -> tuple[str, Path]:
    """Make sure that all processes save the same thing; gives the save id and the directory that process 0
    proposed."""
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


def _changed_rows(shard: Shard, mark: int) -> list[Tensor]:
    """Per table, the local rows that a delta must hold."""
    return [
        host.arange(len(shard.ids(number)))
        if table.optimizer is not None and table.optimizer.moves_all_rows
        else shard.changed_since(number, mark)
        for number, table in enumerate(shard.tables)
    ]


def _draining(blocks: list[TableBlock]) -> Iterator[TableBlock]:
    """Give the blocks one by one and let go of each, so that the copy shrinks as it is written."""
    blocks.reverse()
    while blocks:
        yield blocks.pop()

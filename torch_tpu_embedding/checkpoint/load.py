"""`checkpoint.load`: the rows of this process out of a checkpoint of any number of shards.

A load has three phases: it chooses the steps that may be loaded, opens and checks one of them, and fills
the tables. All is checked on all processes before the first row is written.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..distributed.group import raise_together, together
from ..io.warn import warn_caller
from ..tables.low_precision.rounding import nearest
from ..vocabularies.saved_maps import Moves, Restored
from .errors import CheckpointError, StepRemovedError
from .format.run_directory import shared_directory
from .format.steps import choose_step, complete_steps, require_step
from .maps import live_vocabularies, maps_for
from .open_steps import drop_open_steps
from .reading.reader import TRIES, Reader, open_step
from .reading.table_matching import TableMatch, match_tables
from .rows import HasShard, Shard, block_rows, field_widths
from .writing.background import wait_before
from .writing.delta_bases import forget, remember
from .writing.writer import drop_claim

Resize = Literal["error", "allow"]
Slots = Literal["require", "skip", "match"]
Dtype = Literal["require", "convert"]


@dataclass(frozen=True)
class Loaded:
    """The step that `load` has loaded, and what was saved beside its tables.

    Args:
        step: the number of the step.
        extra: as given to `save`, or None.
    """

    step: int
    extra: Any


def load(
    embedding: HasShard,
    directory: str | os.PathLike[str],
    step: int | None = None,
    *,
    tables: Iterable[str] | None = None,
    rename: Mapping[str, str] | None = None,
    resize: Resize = "error",
    slots: Slots = "require",
    dtype: Dtype = "require",
    verify: bool = True,
    fall_back: bool = False,
) -> Loaded:
    """Load tables and slots from `directory`; all processes call this together.

    The number of processes and the strategy may be others than those of the save. Gradients of
    training batches that are not applied yet (left by backward, or kept by `accumulate_gradients`) belong
    to the rows before: they are dropped with their batches, with a warning. Batches that wait for dequeue,
    and one that has no gradients yet, stay.

    Args:
        embedding: a TPUEmbedding, or anything else that has a `shard`.
        directory: of the run, as given to `save`.
        step: None takes the newest complete one.
        tables: names, in the embedding, of those to load; None takes all, which must then be those of
            the checkpoint too.
        rename: name in the checkpoint → name in the embedding.
        resize: 'allow' accepts another vocabulary: rows that the checkpoint lacks keep what the
            embedding has, rows that the embedding lacks are left out.
        slots: 'require' takes a checkpoint of the same slots only; 'skip' loads weights alone; 'match'
            loads the slots that both have.
        dtype: 'require' takes weights and slots of the table's dtypes only; 'convert' loads float32 into
            bfloat16, rounded to nearest, and bfloat16 into float32, as it is.
        verify: hash each file that is read (divided among the processes) before anything is written.
        fall_back: where a step is damaged, warn, and take the newest complete one before it.

    Raises:
        CheckpointError: the step is missing or damaged; names file and key.
        ValueError: checkpoint and embedding do not fit; says how, and which argument permits it.
    """
    group = embedding.shard.group
    root = shared_directory(group, "checkpoint.load", directory)
    with together(group, "checkpoint.load"):
        wait_before(embedding, root)
        names = None if tables is None else [*tables]
        arguments = _Arguments(
            root, step, names, dict(rename or {}), resize, slots, dtype, verify, fall_back
        )
        steps = arguments.choose()
        arguments.check_words()
        if (vocabularies := live_vocabularies(embedding.shard)) is not None:
            vocabularies.require_idle("checkpoint.load")
    opened = _open(embedding.shard, arguments, steps)
    if dropped := _fill(embedding, root, opened):
        warn_caller(
            f"checkpoint.load: {dropped} batches that were looked up before, and whose gradients were not "
            "applied, are dropped with their gradients, which belong to the rows before; to drop them "
            "yourself, call embedding.discard() before the load"
        )
    return Loaded(opened.reader.step, opened.extra)


@dataclass(frozen=True)
class _Arguments:
    """The arguments of `load` but for the embedding."""

    root: Path
    step: int | None
    tables: list[str] | None
    rename: Mapping[str, str]
    resize: Resize
    slots: Slots
    dtype: Dtype
    verify: bool
    fall_back: bool

    def choose(self) -> list[int]:
        """The step to load, then the steps to fall back on."""
        if self.step is not None:
            require_step("step", self.step)
        if not self.fall_back:
            return [choose_step(self.root, self.step)]
        complete = complete_steps(self.root)
        found = [each for each in complete if self.step is None or each <= self.step]
        return found[::-1] or [choose_step(self.root, self.step)]

    def check_words(self) -> None:
        """Check the arguments that are one of a few words.

        Raises:
            ValueError: one of them is another word.
        """
        for name, value, allowed in (
            ("resize", self.resize, ("error", "allow")),
            ("slots", self.slots, ("require", "skip", "match")),
            ("dtype", self.dtype, ("require", "convert")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


@dataclass(frozen=True)
class _Opened:
    """A step whose files are open, and found to fit the embedding."""

    reader: Reader
    matches: list[TableMatch]
    extra: Any
    maps: dict[int, Restored]


def _open(shard: Shard, arguments: _Arguments, steps: list[int]) -> _Opened:
    """The first of the steps that all processes can load, checked as a whole.

    Where the newest step is to be loaded and another job removes it meanwhile, the steps are chosen again.
    """
    for left in reversed(range(TRIES)):
        again = arguments.step is None and left > 0
        opened = _open_first(shard, arguments, steps, again)
        if opened is not None:
            return opened
        with contextlib.suppress(CheckpointError, OSError):  # the others wait; the next turn raises
            steps = arguments.choose()
    raise AssertionError("the last turn gives a step or raises")


def _open_first(
    shard: Shard, arguments: _Arguments, steps: list[int], again: bool
) -> _Opened | None:
    """The first of the steps that all processes can load; raises where there is none.

    Args:
        again: give None where a step was removed while it was being opened, for there are newer ones then.
    """
    group = shard.group
    steps = group.gather_objects(steps)[0]  # as process 0 saw them
    for candidate, following in zip(steps, [*steps[1:], None], strict=True):
        opened = _try(shard, arguments, candidate)
        error = opened if isinstance(opened, Exception) else None
        damaged = isinstance(error, (CheckpointError, OSError))
        removed = isinstance(error, StepRemovedError)
        outcomes = group.gather_objects((str(error) if error else None, damaged, removed))
        problems = [text for text, _, _ in outcomes if text is not None]
        if not problems:
            assert isinstance(opened, _Opened)
            return opened
        if again and any(gone for _, _, gone in outcomes):
            return None
        if following is None or not all(bad for text, bad, _ in outcomes if text is not None):
            raise_together(group, f"checkpoint.load of step {candidate}", error)
        warnings.warn(
            f"step {candidate} cannot be loaded, step {following} is tried: {problems[0]}",
            stacklevel=4,  # the caller of `load`
        )
    raise AssertionError("no steps")


def _try(shard: Shard, arguments: _Arguments, step: int) -> _Opened | Exception:
    """One step, opened and checked by this process, or why it cannot be loaded."""
    reader = None
    try:
        reader = open_step(arguments.root, step)
        matches = match_tables(
            shard.tables,
            reader,
            arguments.tables,
            arguments.rename,
            arguments.resize == "allow",
            arguments.slots,
            arguments.dtype,
        )
        _check(reader, matches, arguments.verify, shard)
        sources = [(match.number, match.source) for match in matches]
        maps = maps_for(shard, sources, reader, arguments.resize == "allow")
        return _Opened(reader, matches, reader.extra(), maps)
    except Exception as error:
        return _explained(error, reader)


def _explained(error: Exception, reader: Reader | None) -> Exception:
    """The error, or the reason for it if the step was removed meanwhile; closes the files."""
    if reader is not None:
        reader.close()
        if isinstance(error, (CheckpointError, OSError)):
            try:
                reader.require_there()
            except StepRemovedError as reason:
                return reason
    return error


def _check(reader: Reader, matches: list[TableMatch], verify: bool, shard: Shard) -> None:
    """Check the step's files against its index, and hash this process's portion of them."""
    fields = [(match.source, field) for match in matches for field in match.fields]
    for match in matches:
        if match.number in getattr(live_vocabularies(shard), "maps", {}):
            fields += ((match.source, field) for field in reader.tables[match.source].map_fields)
    reader.check(fields)
    if verify:
        reader.verify(reader.files(fields)[shard.group.rank :: shard.group.size])


def _fill(embedding: HasShard, root: Path, opened: _Opened) -> int:
    """Write this process's rows, and note what the next save must know of the step they are from.

    Returns:
        How many batches that were looked up in the rows before are dropped.
    """
    shard, reader, matches = embedding.shard, opened.reader, opened.matches
    moved = {table for table, each in opened.maps.items() if each.moves is not None}
    forget(embedding)
    dropped = drop_open_steps(shard)
    with together(shard.group, f"checkpoint.load of step {reader.step}"):
        try:
            for match in matches:
                moves = opened.maps[match.number].moves if match.number in opened.maps else None
                if moves is None:
                    _fill_table(shard, match, reader)
                else:
                    _move_rows(shard, match, reader, moves)
        except Exception as error:
            error.add_note("some rows were loaded already: load again before going on")
            raise
    if (vocabularies := live_vocabularies(shard)) is not None:
        vocabularies.replace({table: each.maps for table, each in opened.maps.items()})
    reader.close()
    all_tables = len(matches) == len(shard.tables)
    if all_tables and getattr(shard, "updates", None) is not None:
        shard.updates = reader.index.updates or 0  # type: ignore[attr-defined]
    if all_tables and all(match.is_whole and match.number not in moved for match in matches):
        remember(embedding, root, reader.step, reader.index.save_id, shard.set_mark())
    drop_claim(embedding, root)
    return dropped


def _fill_table(shard: Shard, match: TableMatch, reader: Reader) -> None:
    """Write this process's rows of a table, block by block."""
    ids = shard.ids(match.number)
    rows = len(ids) if not ids else len(range(ids.start, min(ids.stop, match.rows), ids.step))
    at_once = block_rows(field_widths(shard.tables[match.number]))
    for start in range(0, rows, at_once):
        wanted = ids[start : min(start + at_once, rows)]
        values = {field: _read(reader, match, field, wanted) for field in match.fields}
        shard.write_rows(match.number, start, values)


def _move_rows(shard: Shard, match: TableMatch, reader: Reader, moves: Moves) -> None:
    """Write this process's rows of a table whose ids have other rows now, block by block of the step's."""
    ids, saved = shard.ids(match.number), reader.tables[match.source].vocabulary_size
    at_once = block_rows(field_widths(shard.tables[match.number]))
    for start in range(0, saved, at_once):
        stop = min(start + at_once, saved)
        here = slice(*np.searchsorted(moves.sources, [start, stop]).tolist())
        if here.start == here.stop:
            continue
        chosen = torch.from_numpy(moves.sources[here] - start)
        rows = torch.from_numpy((moves.targets[here] - ids.start) // ids.step)
        values = {
            field: _read(reader, match, field, range(start, stop))[chosen] for field in match.fields
        }
        shard.write_scattered(match.number, rows, values)


def _read(reader: Reader, match: TableMatch, field: str, ids: range) -> Tensor:
    """Rows of a field as the table takes them, float32."""
    rows = reader.read_ids(match.source, field, ids)
    return nearest(rows) if field in match.rounded else rows

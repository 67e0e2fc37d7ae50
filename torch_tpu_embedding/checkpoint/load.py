"""`checkpoint.load`: the rows of this process out of a checkpoint of any number of shards.

All is checked on all processes before the first row is written. Letters: V vocabulary, S shards.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..distributed.group import HostGroup, raise_together
from .errors import CheckpointError, StepRemovedError
from .format.run_directory import shared_directory
from .format.steps import choose_step, complete_steps, require_step
from .reading.reader import TRIES, Reader, open_step
from .reading.table_matching import TableMatch, match_tables
from .rows import HasShard, Shard, block_rows, field_widths
from .writing.background import settle
from .writing.delta_bases import forget, remember
from .writing.writer import begin_anew

Resize = Literal["error", "allow"]
Slots = Literal["require", "skip", "match"]


@dataclass(frozen=True)
class Loaded:
    """What `load` found."""

    step: int
    extra: Any
    """What was given to `save`, or None."""


def load(
    embedding: HasShard,
    directory: str | os.PathLike[str],
    step: int | None = None,
    *,
    tables: Iterable[str] | None = None,
    rename: Mapping[str, str] | None = None,
    resize: Resize = "error",
    slots: Slots = "require",
    verify: bool = True,
    fall_back: bool = False,
) -> Loaded:
    """Load tables and slots from `directory`; all processes call this together.

    The number of processes and the strategy may be others than those of the save.

    Args:
        step: None takes the newest complete one.
        tables: names, in the embedding, of those to load; None takes all, which must then be those of
            the checkpoint too.
        rename: name in the checkpoint → name in the embedding.
        resize: 'allow' accepts another vocabulary: rows that the checkpoint lacks keep what the
            embedding has, rows that the embedding lacks are left out.
        slots: 'require' takes a checkpoint of the same slots only; 'skip' loads weights alone; 'match'
            loads the slots that both have.
        verify: hash each file that is read (divided among the processes) before anything is written.
        fall_back: where a step is damaged, warn, and take the newest complete one before it.

    Raises:
        CheckpointError: the step is missing or damaged; names file and key.
        ValueError: checkpoint and embedding do not fit; says how, and which argument permits it.
    """
    shard = embedding.shard
    group = shard.group
    root = shared_directory(group, "checkpoint.load", directory)
    error = settle(embedding, root)
    steps: list[int] = []
    try:
        if error is None:
            steps = _candidates(root, step, fall_back)
            for name, value, allowed in (
                ("resize", resize, ("error", "allow")),
                ("slots", slots, ("require", "skip", "match")),
            ):
                if value not in allowed:
                    raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    except Exception as caught:
        error = caught
    raise_together(group, "checkpoint.load", error)
    chosen = None if tables is None else [*tables]

    def fit(reader: Reader) -> list[TableMatch]:
        return match_tables(
            shard.tables, reader, chosen, dict(rename or {}), resize == "allow", slots
        )

    opened = None
    for left in reversed(range(TRIES)):
        opened = _open_together(group, root, steps, fit, verify, again=step is None and left > 0)
        if opened is not None:
            break
        with contextlib.suppress(CheckpointError, OSError):  # the others wait; the next turn raises
            steps = _candidates(root, step, fall_back)
    assert opened is not None
    reader, matches, extra = opened
    forget(embedding)
    try:
        for match in matches:
            _fill(shard, match, reader)
    except Exception as caught:
        caught.add_note("some rows were loaded already: load again before going on")
        error = caught
    raise_together(group, f"checkpoint.load of step {reader.step}", error)
    reader.close()
    if len(matches) == len(shard.tables) and all(match.is_whole for match in matches):
        remember(embedding, root, reader.step, reader.index.save_id, shard.epoch())
    begin_anew(embedding, root)
    return Loaded(reader.step, extra)


def _open_together(
    group: HostGroup,
    root: Path,
    steps: list[int],
    fit: Callable[[Reader], list[TableMatch]],
    verify: bool,
    again: bool,
) -> tuple[Reader, list[TableMatch], Any] | None:
    """The first of the steps that all processes can load, all of it checked, its files open.

    Args:
        again: give None where a step was removed while it was being opened, for there are newer ones then.
    """
    steps = group.gather_objects(steps)[0]  # those that process 0 saw
    for candidate, following in zip(steps, [*steps[1:], None], strict=True):
        reader, found, error = None, None, None
        try:
            reader = open_step(root, candidate)
            matches = fit(reader)
            _check(reader, matches, verify, group)
            found = reader, matches, reader.extra()
        except Exception as caught:
            error = _explained(caught, reader)
        damaged = isinstance(error, (CheckpointError, OSError))
        removed = isinstance(error, StepRemovedError)
        outcomes = group.gather_objects((str(error) if error else None, damaged, removed))
        problems = [text for text, _, _ in outcomes if text is not None]
        if not problems:
            return found
        if again and any(gone for _, _, gone in outcomes):
            return None
        if following is None or not all(bad for text, bad, _ in outcomes if text is not None):
            raise_together(group, f"checkpoint.load of step {candidate}", error)
        warnings.warn(
            f"step {candidate} cannot be loaded, step {following} is tried: {problems[0]}",
            stacklevel=3,
        )
    raise AssertionError("no steps")


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


def _candidates(root: Path, step: int | None, fall_back: bool) -> list[int]:
    """The step to load, then those to fall back on."""
    if step is not None:
        require_step("step", step)
    if not fall_back:
        return [choose_step(root, step)]
    found = [each for each in complete_steps(root) if step is None or each <= step]
    return found[::-1] or [choose_step(root, step)]


def _check(reader: Reader, matches: list[TableMatch], verify: bool, group: HostGroup) -> None:
    fields = [(match.source, field) for match in matches for field in match.fields]
    reader.check(fields)
    if verify:
        reader.verify(reader.files(fields)[group.rank :: group.size])


def _fill(shard: Shard, match: TableMatch, reader: Reader) -> None:
    """Write this process's rows of a table, block by block."""
    ids = shard.ids(match.number)
    rows = len(ids) if not ids else len(range(ids.start, min(ids.stop, match.rows), ids.step))
    at_once = block_rows(field_widths(shard.tables[match.number]))
    for start in range(0, rows, at_once):
        wanted = ids[start : min(start + at_once, rows)]
        values = {field: reader.read_ids(match.source, field, wanted) for field in match.fields}
        shard.write_rows(match.number, start, values)

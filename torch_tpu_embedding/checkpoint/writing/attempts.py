"""The save attempts in the directory of a step: which files are whose, and the state of each attempt.

A save attempt is one try to save one step. It is known by its save id, which is in the name of each of
its files but the index. Process 0 creates the attempt's *ticket*, the file that becomes the index, before
anybody writes another file of the attempt. So there are three states:

* pending: the ticket is there, and the index is not of this attempt;
* complete: the index is of this attempt (a ticket that is still there is the same file);
* dead: neither ticket nor index; for good, since no ticket is made twice.

Each way from one state to another is one operation on the ticket, done in full or not at all, so that two
jobs that meet in a directory cannot both have their way: `complete` (a link that fails if there is an
index), `revoke` (back to pending), `bury` (pending to dead, and only then are its files removed).
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ..errors import CheckpointError
from ..format import durable
from ..format.index import Base, Index, read_index
from ..format.links import read_link
from ..format.steps import INDEX_NAME, step_path

_OURS = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9_]*-\d{5}-of-\d{5,}-\d{5,}|extra|failed|index|rank-\d{5,})"
    rf"-(?P<save_id>[0-9a-f]{{12}})\.(?:safetensors|pt|json)(?:{re.escape(durable.TEMPORARY)})?"
)
_LOOKS = 3
_FORMER_TEMPORARY = INDEX_NAME + durable.TEMPORARY
"""The file to which earlier versions wrote an index before they gave it its name."""


def ticket_path(directory: Path, save_id: str) -> Path:
    """The file that becomes the index of a save attempt."""
    return directory / f"index-{save_id}.json"


def published(directory: Path) -> Index | None:
    """The index of a step's directory, or None where there is none.

    Raises:
        CheckpointError: the index is damaged.
    """
    path = directory / INDEX_NAME
    return read_index(path) if path.is_file() else None


def is_published(directory: Path, save_id: str) -> bool:
    """True if the step was completed by this save attempt; raises as `published`."""
    index = published(directory)
    return index is not None and index.save_id == save_id


def complete(directory: Path, save_id: str, replace: bool) -> None:
    """Make the ticket, filled and synced, the index.

    Args:
        replace: take the place of another index.

    Raises:
        FileExistsError: there is an index already, and `replace` is not set.
        FileNotFoundError: the ticket is gone; the attempt is dead.
    """
    ticket, index = ticket_path(directory, save_id), directory / INDEX_NAME
    if replace:
        durable.rename(ticket, index)
    else:
        durable.link(ticket, index)
        durable.remove(ticket)


def revoke(directory: Path, save_id: str) -> bool:
    """Take the index away from a complete attempt, which is pending then; False if it was not complete."""
    if not is_published(directory, save_id):
        return False
    ticket, index = ticket_path(directory, save_id), directory / INDEX_NAME
    with contextlib.suppress(FileNotFoundError):
        # A second name of the index, if its process died early. A rename to it would do nothing.
        if os.path.samestat(os.lstat(ticket), os.lstat(index)):
            durable.remove(ticket)
    try:
        durable.rename(index, ticket)
    except FileNotFoundError:
        return False
    try:
        found = read_index(ticket).save_id
    except CheckpointError:  # somebody else has buried it
        return False
    if found != save_id:  # another was put in its place meanwhile
        restore(directory, save_id)
    return found == save_id


def restore(directory: Path, save_id: str) -> None:
    """Undo `revoke`, unless there is another index or somebody has buried the attempt."""
    try:
        complete(directory, save_id, replace=False)
    except (FileExistsError, FileNotFoundError):
        durable.remove(ticket_path(directory, save_id))


def is_there(root: Path, base: Base) -> bool:
    """True if a base and all steps below it are complete; steps that another job just revoked are restored.

    Whoever makes a delta complete asks this of its base afterwards, and whoever revokes a base looks for
    deltas on it afterwards: so one of the two notices the other.
    """
    restored: list[Base] = []
    at: Base | None = base
    while at is not None:
        link = read_link(root, at.step)
        if link is None or link.save_id != at.save_id:
            restore(step_path(root, at.step), at.save_id)
            restored.append(at)
            link = read_link(root, at.step)
        if link is None or link.save_id != at.save_id:
            break
        at = link.base
    if at is not None:
        for each in restored:
            revoke(step_path(root, each.step), each.save_id)
    return at is None


def bury(directory: Path) -> None:
    """Remove pending and dead save attempts of a directory, and files that the complete one does not need.

    Only files with names that this package gives are ever removed, and only those that were there when
    this began.

    Raises:
        CheckpointError: the index is damaged; nothing was removed.
    """
    if (directory / INDEX_NAME).is_file():
        read_index(directory / INDEX_NAME)
    found: dict[str, list[Path]] = {}
    for path in [*directory.iterdir()]:
        if match := _OURS.fullmatch(path.name):
            found.setdefault(match["save_id"], []).append(path)
    for save_id, paths in found.items():
        index = _kill(directory, save_id)
        for path in paths:
            if index is None or path.name not in index.files:
                durable.remove(path)
    durable.remove(directory / _FORMER_TEMPORARY)


def _kill(directory: Path, save_id: str) -> Index | None:
    """Let a save attempt be dead, unless it is complete; gives the index of a complete one, else None."""
    for _ in range(_LOOKS):
        removed = durable.remove(ticket_path(directory, save_id))
        # Only after the ticket is gone, for now the attempt cannot become complete any more.
        index = published(directory)
        if index is not None and index.save_id == save_id:
            return index
        if removed:
            break
        # There was no ticket, but another job may have made the index one before it was looked for.
    return None


def give_up(directory: Path, save_id: str, keep: Path | None = None) -> None:
    """Give one save attempt up: remove its files, and no others, unless it is complete.

    Args:
        keep: a file to leave.
    """
    try:
        if _kill(directory, save_id) is not None:
            return
    except CheckpointError:  # the index of somebody else, damaged
        pass
    for path in directory.glob(f"*-{save_id}.*"):
        if path != keep:
            durable.remove(path)

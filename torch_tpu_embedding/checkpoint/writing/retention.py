"""Tidying after a save: leftovers of dead attempts, old steps, and the steps of a branch given up go.

Everything is decided by one listing, made first. Steps after the saved one are left alone, unless they were
there when the save began and it was told to drop them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..errors import CheckpointError
from ..format import durable
from ..format.index import Base
from ..format.links import Link, read_link
from ..format.steps import step_path, steps_by_state
from .attempts import bury, is_there, restore, revoke


def tidy(
    directory: Path,
    step: int,
    keep_last: int | None,
    newer: Mapping[int, str | None],
    is_mine: Callable[[], bool],
) -> None:
    """Tidy up after `step` has become complete.

    Args:
        keep_last: keep `step` and the newest steps before it, this many in all, and what deltas among
            the kept stand on. Damaged steps stay and do not count. Attempts before `step` that never
            finished go.
        newer: steps after this one → save id, or None where a step is unfinished: these go too.
        is_mine: gives True while this job may still remove something here.

    Raises:
        CheckpointError, OSError: not all could be removed.
    """
    bury(step_path(directory, step))
    if keep_last is None and not newer:
        return
    found = _Survey(directory)
    doomed = {each: save_id for each, save_id in newer.items() if save_id is not None}
    unfinished = [each for each in found.unfinished if newer.get(each, "") is None]
    if keep_last is not None:
        doomed.update(_beyond(found, step, keep_last, {*doomed}))
        unfinished += [each for each in found.unfinished if each < step]
    _remove(directory, doomed, found, is_mine)
    for each in sorted(unfinished, reverse=True):
        if is_mine():
            _remove_directory(directory, each)
    durable.sync_directory(directory)


class _Survey:
    """The steps of a directory, and their links, as one listing shows them."""

    def __init__(self, directory: Path) -> None:
        complete, unfinished = steps_by_state(directory)
        self.links = {each: _link(directory, each) for each in complete}
        # Bases that another job revoked, and was stopped before it could look for deltas.
        missing = _bases(self.links.values())
        while missing:
            base = missing.pop()
            if base.step in {*unfinished} - {*self.links} and is_there(directory, base):
                self.links[base.step] = _link(directory, base.step)
                missing += _bases([self.links[base.step]])
        self.unfinished = [each for each in unfinished if each not in self.links]

    def chain(self, step: int) -> set[int] | None:
        """The step and all that it stands on; None where one of them is not there or damaged."""
        chain: set[int] = set()
        at: int | None = step
        while at is not None and at not in chain:
            link = self.links.get(at)
            if link is None:
                return None
            chain.add(at)
            at = link.base.step if link.base is not None else None
        return chain


def _beyond(found: _Survey, step: int, keep_last: int, gone: set[int]) -> dict[int, str]:
    """The complete steps that `keep_last` does not keep → save id."""
    chains = {}
    for each in sorted(found.links):
        chain = found.chain(each)
        if chain is not None:
            chains[each] = chain
        elif found.links[each] is not None:
            warnings.warn(
                f"keep_last leaves step {each} alone: what it stands on is missing or damaged",
                stacklevel=2,
            )
    sound = [each for each in chains if each not in gone]
    kept = {*[each for each in sound if each <= step][-keep_last:]}
    kept |= {each for each in sound if each > step}
    needed = {link for each in kept for link in chains[each]}
    return {
        each: link.save_id
        for each in sound
        if each not in needed and (link := found.links[each]) is not None
    }


def _remove(
    directory: Path, doomed: Mapping[int, str], found: _Survey, is_mine: Callable[[], bool]
) -> None:
    """Remove complete steps: first their indexes, the newest first, so that no delta outlives its base.

    Another job may have saved a delta on one of them since the listing, or have taken the directory: such
    a step is put back.
    """
    revoked: list[int] = []
    error: Exception | None = None
    for each in sorted(doomed, reverse=True):
        try:
            if not is_mine():
                break
            if _revoke(directory, each, doomed[each]):
                revoked.append(each)
        except (OSError, CheckpointError) as caught:
            error = caught
            break
    needed: set[int] = set()
    if revoked:
        now = {each: _link(directory, each) for each in steps_by_state(directory)[0]}
        # One that was revoked can be complete again: the delta of another job stands on it.
        changed = [each for each in now if each in revoked or now[each] != found.links.get(each)]
        for base in _bases(now[each] for each in changed):
            needed |= {base.step, *(found.chain(base.step) or ())}
    for each in reversed(revoked):  # bases first
        path, link = step_path(directory, each), found.links.get(each)
        if each in needed or not is_mine():
            restore(path, doomed[each])
            for base in _bases([link]):
                if not is_there(directory, base):
                    revoke(path, doomed[each])  # somebody has buried its base meanwhile
        else:
            _remove_directory(directory, each)
    if error is not None:
        raise error


def _bases(links: Iterable[Link | None]) -> list[Base]:
    return [link.base for link in links if link is not None and link.base is not None]


def _revoke(directory: Path, step: int, save_id: str) -> bool:
    path = step_path(directory, step)
    if path.is_symlink() or not revoke(path, save_id):
        return False
    durable.sync_directory(path)
    return True


def _remove_directory(directory: Path, step: int) -> None:
    path = step_path(directory, step)
    if not path.is_symlink():  # it may lead anywhere
        bury(path)
        durable.remove_directory(path)


def _link(directory: Path, step: int) -> Link | None:
    try:
        return read_link(directory, step)
    except (CheckpointError, OSError) as error:
        warnings.warn(f"keep_last leaves step {step} alone: {error}", stacklevel=2)
        return None

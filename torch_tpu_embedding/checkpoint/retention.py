"""What a finished save removes: leftovers of dead attempts, old steps, and the steps of a branch given up.

Everything is decided by one listing, made first. Steps after the own one are left alone, unless they were
there when the save began and it was told to drop them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from . import durable
from .attempts import bury, published, restore, revoke
from .errors import CheckpointError
from .index import Index
from .steps import step_path, steps_by_state


def tidy(
    directory: Path,
    step: int,
    keep_last: int | None,
    newer: Mapping[int, str],
    is_mine: Callable[[], bool],
) -> None:
    """Tidy up after `step` has become complete.

    Args:
        keep_last: keep `step` and the newest steps before it, this many in all, and what deltas among
            the kept stand on. Damaged steps stay and do not count. Attempts before `step` that never
            finished go.
        newer: steps after this one → save id: these go too.
        is_mine: whether this job may still remove something here.

    Raises:
        CheckpointError, OSError: not all could be removed.
    """
    bury(step_path(directory, step))
    if keep_last is None and not newer:
        return
    complete, unfinished = steps_by_state(directory)
    indexes = {each: _index(directory, each) for each in complete}
    chains = {each: _chain(indexes, each) for each in complete}
    for each, chain in chains.items():
        if chain is None and indexes[each] is not None:
            warnings.warn(
                f"keep_last leaves step {each} alone: what it stands on is missing or damaged",
                stacklevel=2,
            )
    doomed = {each: save_id for each, save_id in newer.items() if each in complete}
    if keep_last is not None:
        sound = [each for each in complete if chains[each] is not None and each not in doomed]
        kept = {*[each for each in sound if each <= step][-keep_last:]}
        kept |= {each for each in sound if each > step}
        needed = {link for each in kept for link in chains[each] or ()}
        for each in sound:
            index = indexes[each]
            if each not in needed and index is not None:
                doomed[each] = index.save_id
        unfinished = [each for each in unfinished if each < step]
    else:
        unfinished = []
    _remove(directory, doomed, {*complete}, chains, is_mine)
    for each in reversed(unfinished):
        if is_mine():
            _remove_directory(directory, each)
    durable.sync_directory(directory)


def _remove(
    directory: Path,
    doomed: Mapping[int, str],
    known: set[int],
    chains: Mapping[int, set[int] | None],
    is_mine: Callable[[], bool],
) -> None:
    """Remove complete steps: first their indexes, the newest first, so that no delta outlives its base.

    Another job may have saved a delta on one of them since the listing, or have taken the directory: such
    a step is put back. Whoever completes a delta looks for its base afterwards, so one of the two notices.
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
    for each in set(steps_by_state(directory)[0]) - known:
        index = _index(directory, each)
        if index is not None and index.base is not None:
            needed |= {index.base.step, *(chains.get(index.base.step) or ())}
    for each in reversed(revoked):  # bases first
        if each in needed or not is_mine():
            restore(step_path(directory, each), doomed[each])
        else:
            _remove_directory(directory, each)
    if error is not None:
        raise error


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


def _index(directory: Path, step: int) -> Index | None:
    try:
        return published(step_path(directory, step))
    except (CheckpointError, OSError) as error:
        warnings.warn(f"keep_last leaves step {step} alone: {error}", stacklevel=2)
        return None


def _chain(indexes: Mapping[int, Index | None], step: int) -> set[int] | None:
    """The step and all that it stands on; None where one of them is not there or damaged."""
    chain: set[int] = set()
    at: int | None = step
    while at is not None and at not in chain:
        index = indexes.get(at)
        if index is None:
            return None
        chain.add(at)
        at = index.base.step if index.base is not None else None
    return chain

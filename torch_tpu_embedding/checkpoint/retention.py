"""What a finished save removes: the leftovers of dead attempts, and old steps under `keep_last`.

Only files with names that this package gives are ever removed.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from . import durable
from .errors import CheckpointError
from .index import read_index
from .steps import INDEX_NAME, all_steps, complete_steps, index_path, step_path

_OURS = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9_]*-\d{5}-of-\d{5,}-\d{5,}-[0-9a-f]{12}\.safetensors"
    r"|(?:extra|failed|rank-\d{5,})-[0-9a-f]{12}\.(?:pt|json)"
    rf"|{re.escape(INDEX_NAME)})(?:{re.escape(durable.TEMPORARY)})?"
)


def remove_leftovers(directory: Path) -> None:
    """Remove what a complete step does not need: manifests, and files of attempts that died."""
    index = read_index(directory / INDEX_NAME)
    _remove(directory, keep={*index.files, INDEX_NAME})


def remove_old_steps(directory: Path, step: int, keep_last: int) -> None:
    """Keep `step` and the newest steps before it, `keep_last` in all, and what deltas among the kept stand
    on. Steps after `step` stay; so do damaged ones, which do not count. Directories of attempts that
    never finished go.
    """
    chains = {each: _chain(directory, each) for each in complete_steps(directory)}
    sound = [each for each, chain in chains.items() if chain is not None]
    upto = [each for each in sound if each <= step]
    kept = {*upto[-keep_last:], *(each for each in sound if each > step)}
    needed = {link for each in kept for link in chains[each] or ()}
    needed |= {each for each, chain in chains.items() if chain is None}
    # Newest first, so that a delta never outlives its base; the index first, so that a step that is
    # half removed is no step.
    for each in sorted(set(all_steps(directory)) - needed, reverse=True):
        durable.remove(index_path(directory, each))
        durable.sync_directory(step_path(directory, each))
        _remove(step_path(directory, each), keep=set())
        durable.remove_directory(step_path(directory, each))
    durable.sync_directory(directory)


def _chain(directory: Path, step: int) -> set[int] | None:
    """The step and all that it stands on; None where an index cannot be read."""
    chain: set[int] = set()
    at: int | None = step
    try:
        while at is not None and at not in chain:
            chain.add(at)
            base = read_index(index_path(directory, at)).base
            at = base.step if base is not None else None
    except CheckpointError as error:
        warnings.warn(f"keep_last leaves step {step} alone: {error}", stacklevel=2)
        return None
    return chain


def _remove(directory: Path, keep: set[str]) -> None:
    for path in directory.iterdir():
        if path.name not in keep and _OURS.fullmatch(path.name):
            durable.remove(path)

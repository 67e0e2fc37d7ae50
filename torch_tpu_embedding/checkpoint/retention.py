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
    on; steps after `step` stay. Directories of attempts that never finished go.
    """
    complete = complete_steps(directory)
    upto = [each for each in complete if each <= step]
    needed = {*upto[len(upto) - keep_last :], *(each for each in complete if each > step)}
    try:
        for each in [*needed]:
            while (base := read_index(index_path(directory, each)).base) is not None:
                each = base.step
                if each in needed or each not in complete:
                    break
                needed.add(each)
    except CheckpointError as error:
        # An index that cannot be read may be that of a delta: nobody knows what it stands on.
        warnings.warn(f"keep_last={keep_last}: no old step was removed; {error}", stacklevel=2)
        return
    # Newest first, so that a delta never outlives its base; the index first, so that a step that is
    # half removed is no step.
    for each in sorted(set(all_steps(directory)) - needed, reverse=True):
        durable.remove(index_path(directory, each))
        durable.sync_directory(step_path(directory, each))
        _remove(step_path(directory, each), keep=set())
        durable.remove_directory(step_path(directory, each))
    durable.sync_directory(directory)


def _remove(directory: Path, keep: set[str]) -> None:
    for path in directory.iterdir():
        if path.name not in keep and _OURS.fullmatch(path.name):
            durable.remove(path)

"""The beginning of a save: its checks, the step's directory and the ticket, before any row is written."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError
from ..format import durable
from ..format.steps import all_steps, complete_steps, index_path, require_step, step_path
from .attempts import give_up, published, ticket_path
from .shard_writer import SaveAttempt

_OVERWRITE = "overwrite=True (--overwrite of `python -m torch_tpu_embedding.checkpoint`)"
_TICKET_TIMEOUT_S = 10.0
_TRIES = 10


def require_arguments(
    keep_last: int | None, max_file_bytes: int, timeout: float, flags: dict[str, bool]
) -> None:
    """Check arguments of a save that need no look at the disk.

    Args:
        flags: name → value of those that are True or False.

    Raises:
        ValueError: one is out of range, or of another type.
    """
    for name, value in (("keep_last", keep_last), ("max_file_bytes", max_file_bytes)):
        if name == "keep_last" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds above 0, got {timeout!r}")
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False, got {flag!r}")


def begin(root: Path, step: int, overwrite: bool) -> None:
    """Make the directory of the step; each process does this.

    Raises:
        FileExistsError: the step is complete, and is not to be overwritten.
        NotADirectoryError: a link stands for the step.
        ValueError: the step is no int of at least 0.
    """
    require_step("step", step)
    path = step_path(root, step)
    if path.is_symlink():
        raise NotADirectoryError(
            f"{path}: a link, which a save does not follow; remove it, or save another step"
        )
    if index_path(root, step).exists() and not overwrite:
        raise FileExistsError(
            f"{path}: this step is complete already; save another step, or pass {_OVERWRITE}, which "
            "replaces it and drops all later ones"
        )
    durable.make_directory(path)


def open_attempt(attempt: SaveAttempt, overwrite: bool, stacklevel: int) -> dict[int, str | None]:
    """Create the ticket, before any process writes; process 0 does this.

    Args:
        overwrite: the save drops all later steps. Without it, a warning names the complete ones that stay.
        stacklevel: of the warning, counted from the caller of this function, which is 1.

    Returns:
        Later step that the save drops → its save id, or None where that step is unfinished.

    Raises:
        CheckpointError: the index of a later step is damaged.
    """
    root, step = attempt.directory.parent, int(attempt.directory.name.removeprefix("step-"))
    later = [each for each in all_steps(root) if each > step]
    newer = {}
    if overwrite:
        found = {each: published(step_path(root, each)) for each in later}
        newer = {each: index.save_id if index else None for each, index in found.items()}
    elif later := [each for each in complete_steps(root) if each > step]:
        warnings.warn(
            f"{root}: step {step} is saved, but {later} are complete too, and load takes the newest; if "
            f"these were given up, pass {_OVERWRITE} to drop them",
            stacklevel=stacklevel + 1,
        )
    for left in reversed(range(_TRIES)):
        try:
            os.close(durable.create(ticket_path(attempt.directory, attempt.save_id)))
            break
        except FileNotFoundError:  # another job has tidied the empty directory away
            if not left:
                raise
            durable.make_directory(attempt.directory)
    return newer


def require_ticket(attempt: SaveAttempt, theirs: Path) -> None:
    """Check that the ticket that process 0 made is in this process's directory too.

    Args:
        theirs: the directory of the run, as process 0 calls it.

    Raises:
        CheckpointError: the ticket is not there; the processes do not see the same directory.
    """
    deadline = time.monotonic() + _TICKET_TIMEOUT_S
    while not ticket_path(attempt.directory, attempt.save_id).exists():
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{attempt.directory.parent}: process {attempt.rank} does not see here what process 0 has "
                f"just written to {theirs}; give all processes one directory, on a file system that they "
                "share"
            )
        time.sleep(0.05)


@contextlib.contextmanager
def taken_back(attempt: SaveAttempt) -> Iterator[None]:
    """After an error, remove what `begin` and `open_attempt` left."""
    try:
        yield
    except Exception:
        if attempt.rank == 0:
            give_up(attempt.directory, attempt.save_id)
        durable.remove_directory(attempt.directory)
        raise

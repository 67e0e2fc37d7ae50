"""The directory of a run, as callers give it."""

from __future__ import annotations

import os
from pathlib import Path

from ...distributed.group import HostGroup, together
from ...io.paths import local_path
from ..errors import CheckpointError
from . import steps


def run_directory(directory: str | os.PathLike[str]) -> Path:
    """The absolute path of the directory that holds `step-<n>/`.

    Raises:
        TypeError, ValueError: as `local_path` does.
        CheckpointError: the path is the directory of one step.
        NotADirectoryError: the path is a file.
    """
    root = local_path(directory, "directory").absolute()
    if root.is_file():
        raise NotADirectoryError(
            f"{root}: a file; give the directory of the run, which holds step-<n>/"
        )
    step = steps.step_of(root.name)
    if step is not None and steps.index_path(root.parent, step).is_file():
        raise CheckpointError(
            f"{root}: one step, not the directory of a run; give the directory above it, {root.parent}, "
            f"and step={step} (--step {step} on the command line)"
        )
    return root


def shared_directory(group: HostGroup, what: str, directory: str | os.PathLike[str]) -> Path:
    """`run_directory` on all processes; where one of them raises, all do."""
    with together(group, what):
        return run_directory(directory)


def complete_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps that can be loaded, rising; none if there is no directory.

    Args:
        directory: of the run, as given to `save`.

    Raises:
        CheckpointError: it is the directory of one step.
    """
    return steps.complete_steps(run_directory(directory))

"""The directory of a run: one `step-<n>/` a step, complete when its index is there."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"

_STEP = re.compile(r"step-(0|[1-9][0-9]*)")


def require_step(what: str, step: object) -> None:
    """Raise ValueError if `step` is no int of at least 0."""
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"{what} must be an int of at least 0, got {step!r}")


def step_path(directory: Path, step: int) -> Path:
    """The directory in which the files of a step lie."""
    return directory / f"step-{step}"


def index_path(directory: Path, step: int) -> Path:
    """The file whose presence makes a step complete."""
    return step_path(directory, step) / INDEX_NAME


def step_of(name: str) -> int | None:
    """The step whose directory has this name; None for other names."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def all_steps(directory: Path) -> list[int]:
    """The steps that have a directory, complete or not, rising."""
    if not directory.is_dir():
        return []
    found = (_STEP.fullmatch(each.name) for each in directory.iterdir() if each.is_dir())
    return sorted(int(match[1]) for match in found if match)


def complete_steps(directory: Path) -> list[int]:
    """The steps that can be loaded, rising."""
    return steps_by_state(directory)[0]


def steps_by_state(directory: Path) -> tuple[list[int], list[int]]:
    """The complete steps and the unfinished ones by one listing, each rising."""
    states: tuple[list[int], list[int]] = [], []
    for step in all_steps(directory):
        states[not index_path(directory, step).is_file()].append(step)
    return states


def choose_step(directory: Path, step: int | None) -> int:
    """`step`, or the newest complete one.

    Raises:
        CheckpointError: there is no such step, with those that there are.
    """
    complete = complete_steps(directory)
    if step is None and complete:
        return complete[-1]
    if step is not None and step in complete:
        return step
    begun = [each for each in all_steps(directory) if each not in complete]
    have = f"complete are {complete}" if complete else "no step is complete"
    dead = f", begun but never finished {begun}" if begun else ""
    wanted = "no checkpoint to load" if step is None else f"no complete step {step}"
    remedy = "check the directory and the step"
    if not directory.exists():
        remedy = "there is no such directory, check its name"
    raise CheckpointError(f"{directory}: {wanted} ({have}{dead}); {remedy}")

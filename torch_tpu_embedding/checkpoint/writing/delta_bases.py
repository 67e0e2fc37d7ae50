"""The saved steps that an embedding still knows, each with its delta mark: the bases that deltas may have.

Per embedding (held weakly): directory and step → the save's id, and the delta mark that was set with the
save. A load leaves only the loaded step known, since rows may have changed untracked.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..format.index import Base, read_index
from ..format.steps import complete_steps, index_path, require_step
from ..rows import HasShard

_REMEDY = "save without since=, and base the next deltas on that step"


@dataclass(frozen=True)
class _Known:
    save_id: str
    mark: int


_known: weakref.WeakKeyDictionary[HasShard, dict[tuple[Path, int], _Known]]
_known = weakref.WeakKeyDictionary()


def remember(embedding: HasShard, directory: Path, step: int, save_id: str, mark: int) -> None:
    """Note that the rows stood as in this step when the delta mark `mark` was set."""
    _known.setdefault(embedding, {})[directory, step] = _Known(save_id, mark)


def forget(embedding: HasShard) -> None:
    """Note that the rows were changed from outside: no earlier step can be a base any more."""
    _known.pop(embedding, None)


def base_and_mark(
    embedding: HasShard, directory: Path, step: int, delta_step: int
) -> tuple[Base, int]:
    """The base for a delta since `step`, and the delta mark since which changed rows count.

    Raises:
        ValueError: `delta_step`, the step of the delta, does not come after `step`.
        CheckpointError: this embedding neither saved nor loaded that step, or it is gone.
    """
    require_step("since", step)
    if step >= delta_step:
        raise ValueError(
            f"since must be a step before {delta_step}, the one to be saved, got {step}"
        )
    mine = _known.get(embedding, {})
    known = mine.get((directory, step))
    if known is None:
        steps = sorted(each for where, each in mine if where == directory)
        raise CheckpointError(
            f"{directory}: since={step}, but this embedding does not know what changed since that step: "
            f"it has saved or loaded {steps or 'no step'} here in this run; {_REMEDY}"
        )
    if step not in complete_steps(directory):
        raise CheckpointError(f"{directory}: since={step}, but that step is not there; {_REMEDY}")
    found = read_index(index_path(directory, step)).save_id
    if found != known.save_id:
        raise CheckpointError(
            f"{directory}: since={step}, but that step was saved again by another run; {_REMEDY}"
        )
    return Base(step, known.save_id), known.mark

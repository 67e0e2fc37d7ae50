"""Training steps that a save or a load comes in the middle of: their gradients are in no table yet."""

from __future__ import annotations

from ..io.warn import warn_caller
from ..tables.shard import OpenSteps
from .rows import Shard


def open_steps_of(shard: Shard) -> OpenSteps | None:
    """The training steps on the rows of a shard; None if nobody trains them."""
    found: OpenSteps | None = getattr(shard, "open_steps", None)
    return found


def warn_of_unsaved(shard: Shard) -> None:
    """Warn if there are gradients that no file will have."""
    steps = open_steps_of(shard)
    if steps is not None and (count := steps.with_gradients()):
        warn_caller(
            f"checkpoint.save: the gradients of {count} batches are not applied yet and are in no file, so "
            "a run resumed from this step never sees them; to have them saved, call apply_gradients (or "
            "the EmbeddingOptimizer's step) first"
        )


def drop_open_steps(shard: Shard) -> int:
    """Forget the batches that were looked up in rows that are about to be replaced; gives how many."""
    steps = open_steps_of(shard)
    return steps.drop() if steps is not None else 0

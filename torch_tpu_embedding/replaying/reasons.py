"""Why steps are traced: kept for `Replay.reason`, and said once where it will always be so."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.optimizer import Optimizer

from .. import runtime
from ..io.warn import warn_caller
from ..program.live_rows.live_engine import vocabularies_of
from ..runtime.torch_xla import programs
from ..training.replayed_steps import ReplayedSteps

_PATIENCE = 10


class Reasons:
    """The reason of the step traced last.

    Args:
        verify: traces in a row that must agree; ten times as many traced steps are worth a warning.
    """

    def __init__(self, verify: int) -> None:
        self.last = ""
        self._most = _PATIENCE * verify
        self._in_a_row = 0
        self._warned = False

    def replayed(self) -> None:
        """Note that a step was replayed."""
        self._in_a_row = 0

    def traced(self, why: str, sure: bool = False) -> None:
        """Note that a step was traced; warn if it is sure that it will always be so, or seems to be."""
        self.last = why
        self._in_a_row += 1
        if why and (sure or self._in_a_row >= self._most) and not self._warned:
            self._warned = True
            warn_caller(
                f"replay: the step runs traced, which is slower and otherwise the same: {why} (this is "
                "said once)"
            )

    def no_step(self, steps: ReplayedSteps, name: str | None) -> None:
        """Note that a step was traced for which no training batch was ready under its name."""
        if steps.samples_always:
            self.traced("metrics sample every step (enable_metrics(every=1))")
        elif steps.queue.waiting(name) is None:
            self.traced(
                "it enqueues its batch itself; call enqueue (or take the loader's next batch) outside, and "
                "dequeue in the step"
            )


def never_replayed(steps: ReplayedSteps) -> str | None:
    """The reason why no step of an embedding can be replayed; None if there is none."""
    if steps.pipelined:
        return "execution is pipelined, which keeps gradients from one step to the next"
    if runtime.backend() == "torch_tpu":
        return "torch_tpu runs operators one by one, so there is no program to run again"
    if vocabularies_of(steps.engine) is not None:
        return "a table has a DynamicVocabulary, whose new rows differ from step to step"
    lacking = programs.missing(steps.engine.store.arrays[0][0])
    return f"this version of torch_xla has no {', '.join(lacking)}" if lacking else None


def counts_on_host(optimizers: Iterable[Optimizer]) -> str | None:
    """The reason why steps of some dense optimizers are never the same program; None if there is none."""
    kinds = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "ASGD")
    for each in optimizers:
        found = next((name for name in kinds if type(each) is getattr(torch.optim, name)), None)
        if found is None or all(group.get("capturable") for group in each.param_groups):
            continue
        own = found if found in ("Adam", "AdamW") else "Adam"
        return (
            f"torch.optim.{found} counts its steps on the host, so that a number in it differs from step "
            f"to step; use tte.dense_optimizers.{own}(model.parameters(), ...), or capturable=True"
        )
    return None

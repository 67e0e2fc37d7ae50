"""The part of TPUEmbedding by which processes do the same with the gradients of the same batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from .distributed.agreement import agree_on_step
from .freezing import FreezableModule
from .training.call_order import Awaiting, StepQueue

T = TypeVar("T")


class AgreedSteps(FreezableModule):
    """Tables whose steps are checked on all processes before one of them goes on."""

    _queue: StepQueue

    def _together(
        self, call: str, name: str | None, check: Callable[[], tuple[T, Mapping[str, object]]]
    ) -> T:
        """Run a check that may raise; raises on every process if it does on one, or if they differ.

        Args:
            check: gives what is returned here, and settings that must be the same on all processes.
        """
        step, failure = self._queue.step_of(name), None
        settings: Mapping[str, object] = {}
        try:
            found, settings = check()
        except Exception as error:
            if self.placement.num_shards == 1:
                raise
            failure = error
        self._agree_on_step(call, step, failure, settings)
        return found

    def _agree_on_step(
        self,
        call: str,
        step: Sequence[Awaiting],
        failure: Exception | None,
        settings: Mapping[str, object],
    ) -> None:
        """Raise on every process if one cannot go on, or works on another step, or with other settings."""
        batches = " and ".join(each.looked_up.batch.name for each in step)
        tables = [self.resolved.tables[number].name for number in sorted(self._frozen_in(step))]
        own = {"the frozen tables are": tables, **settings}
        agree_on_step(self.engine.exchange.group, call, failure, batches, own)

    def _frozen_in(self, step: Sequence[Awaiting]) -> frozenset[int]:
        """The tables that a step leaves as they are: those frozen now, or when one of its batches was read.

        A table that was unfrozen since then has gradients that were neither unscaled nor clipped.
        """
        return frozenset(self.engine.frozen).union(*(each.frozen for each in step))

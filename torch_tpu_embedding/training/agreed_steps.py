"""A step of several processes: checked on all of them before one goes on, and the same on all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..distributed.agreement import agree_on_step
from ..program.build import Tables
from .call_order import Awaiting, StepQueue

T = TypeVar("T")


class AgreedSteps:
    """The steps of one module, as far as all processes must do the same with them."""

    def __init__(self, tables: Tables, queue: StepQueue) -> None:
        self._tables = tables
        self._queue = queue

    def check_together(
        self, call: str, name: str | None, check: Callable[[], tuple[T, Mapping[str, object]]]
    ) -> T:
        """Run a check that may raise; raises on every process if it does on one, or if they differ.

        Args:
            check: gives the result, and settings that must be the same on all processes.
        """
        step, failure = self._queue.step_of(name), None
        settings: Mapping[str, object] = {}
        try:
            found, settings = check()
        except Exception as error:
            if self._tables.placement.num_shards == 1:
                raise
            failure = error
        self.agree(call, step, failure, settings)
        return found

    def agree(
        self,
        call: str,
        step: Sequence[Awaiting],
        failure: Exception | None,
        settings: Mapping[str, object],
    ) -> None:
        """Raise on every process if one cannot go on, or works on another step, or with other settings."""
        batches = " and ".join(each.looked_up.batch.name for each in step)
        tables = self._tables.resolved.tables
        frozen = [tables[number].name for number in sorted(self.frozen_in(step))]
        own = {"the frozen tables are": frozen, **settings}
        agree_on_step(self._tables.engine.exchange.group, call, failure, batches, own)

    def frozen_in(self, step: Sequence[Awaiting]) -> frozenset[int]:
        """The tables that a step leaves as they are: frozen now, or when one of its batches was read.

        A table that was unfrozen since then has gradients that were neither unscaled nor clipped.
        """
        return self._tables.frozen.union(*(each.frozen for each in step))

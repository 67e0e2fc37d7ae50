"""A step of several processes: checked on all of them before one goes on, and the same on all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..distributed.agreement import check_together
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
        """As `agreement.check_together`, for the step of `name`: all work on the same batches and frozen
        tables."""
        step = self._queue.step_of(name)
        return self.check_step(call, step, check)

    def check_step(
        self,
        call: str,
        step: Sequence[Awaiting],
        check: Callable[[], tuple[T, Mapping[str, object]]],
    ) -> T:
        """`check_together` for a step that is at hand."""
        tables = self._tables.resolved.tables

        def check_all() -> tuple[T, Mapping[str, object]]:
            found, settings = check()
            frozen = [tables[number].name for number in sorted(self.frozen_in(step))]
            return found, {"the frozen tables are": frozen, **settings}

        batches = " and ".join(each.looked_up.batch.name for each in step)
        group = self._tables.engine.exchange.group
        return check_together(group, call, check_all, batches)

    def frozen_in(self, step: Sequence[Awaiting]) -> frozenset[int]:
        """The tables that a step leaves as they are: frozen now, or when one of its batches was read.

        A table that was unfrozen since then has gradients that were neither unscaled nor clipped.
        """
        return self._tables.frozen.union(*(each.frozen for each in step))

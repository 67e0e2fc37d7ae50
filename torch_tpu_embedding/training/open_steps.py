"""The steps on the same tables whose batches were looked up and whose gradients were not applied."""

from __future__ import annotations

import weakref
from typing import Protocol

from ..program.engine import Engine
from .call_order import StepQueue


class ModuleSteps(Protocol):
    """The steps of one module."""

    queue: StepQueue

    def works_on(self, engine: Engine) -> bool:
        """True if its tables are those of an engine."""

    def discard_step(self, name: str | None = None) -> None:
        """Forget the step of a name."""


_all: weakref.WeakSet[ModuleSteps] = weakref.WeakSet()


def register(steps: ModuleSteps) -> None:
    """Remember the steps of a module for as long as it lives."""
    _all.add(steps)


class OpenSteps:
    """The open steps of all modules that work on the tables of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def with_gradients(self) -> int:
        """How many batches have gradients, kept by `accumulate_gradients` or left by backward, that are
        not applied."""
        return sum(each.queue.with_gradients() for each in self._steps())

    def drop(self) -> int:
        """Forget the steps that have gradients which are not applied; gives how many batches they had that
        nobody had given up before. A batch without gradients stays."""
        dropped = 0
        for each in self._steps():
            dropped += each.queue.open_batches()
            for name in each.queue.open_names():
                each.discard_step(name)
        return dropped

    def _steps(self) -> list[ModuleSteps]:
        return [each for each in _all if each.works_on(self._engine)]

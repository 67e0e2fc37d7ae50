"""Steps whose program is run again, as far as the order of calls and the tables' book-keeping see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..config.learning_rates import check_rates
from ..program.build import Tables
from ..program.engine import Engine
from ..program.stack_index import LookedUp
from .agreed_steps import AgreedSteps
from .call_order import Awaiting, Queued, StepQueue


class ReplayedSteps:
    """The part that `Steps` has in a step whose `dequeue` and `apply` are not called again.

    Args:
        tables, queue, agreed: of the module.
        pipelined: True if its execution is.
        count: counts a step.
    """

    def __init__(
        self,
        tables: Tables,
        queue: StepQueue,
        agreed: AgreedSteps,
        pipelined: bool,
        count: Callable[[], None],
    ) -> None:
        self._tables = tables
        self.queue = queue
        self._agreed = agreed
        self.pipelined = pipelined
        self._count = count
        self._checked: tuple[list[float], frozenset[int], list[float]] = [], frozenset(), []
        """The rates that `begin` has checked last, the tables that were frozen, and its result."""

    @property
    def engine(self) -> Engine:
        """The engine of the module's tables."""
        return self._tables.engine

    @property
    def frozen(self) -> frozenset[int]:
        """The tables that stay as they are, as positions among all tables."""
        return self._tables.frozen

    @property
    def samples_always(self) -> bool:
        """True if metrics sample every step."""
        return any(each.always for each in self.engine.samplers)

    def next(self, name: str | None) -> Queued | None:
        """The training batch that a step takes whose program is run again, or None if the step that comes
        next is another one: no such batch waits, or the step before is not complete, or updates are held
        back, or metrics sample it."""
        engine, queued = self.engine, self.queue.waiting(name)
        if queued is None or not queued.training or self.pipelined or engine.holding:
            return None
        if self.queue.step_of(name) or any(each.due for each in engine.samplers):
            return None
        return queued

    def begin(self, queued: Queued, rates: list[float]) -> list[float]:
        """Check the rates of a step, together with all other processes.

        Args:
            queued: its batch.
            rates: one for each table.

        Returns:
            The rates as `Engine.update` takes them.

        Raises:
            ValueError: a rate is wrong, here or on another process, or they differ.
        """
        frozen = self.frozen
        before, of_frozen, checked = self._checked
        if before != rates or of_frozen != frozen:
            checked = check_rates(self._tables.resolved.tables, rates, frozen)
            self._checked = [*rates], frozen, checked
        if self.engine.exchange.group.size > 1:
            step = [Awaiting(LookedUp(queued.sent, [], 0, 0), [], frozen)]
            settings = {"the learning rates of the tables are": checked}
            self._agreed.check_step("apply_gradients", step, lambda: (None, settings))
        return checked

    def note(self, name: str | None, queued: Queued, rates: Sequence[float], version: int) -> None:
        """Take note that a batch was looked up and its gradients applied. Twice does no harm.

        Args:
            version: of the tables after it.
        """
        self.engine.note_update(queued.sent, rates, version)
        self.queue.replayed(name, queued)

    def end(self) -> None:
        """Count the step, which may call the user's callback for metrics."""
        for sampler in self.engine.samplers:
            sampler.begin()
        self._count()

"""The order of calls: batches that wait for dequeue, and those whose gradients have not been applied."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from torch import Tensor

from ..io.warn import warn_caller
from ..program.stack_index import LookedUp, SentBatch


@dataclass(eq=False)
class Queued:
    """An enqueued batch."""

    sent: SentBatch
    training: bool
    read: tuple[LookedUp, list[Tensor]] | None = None
    """Its records and activations, if they were read ahead of its turn (`pipelining.py`)."""


@dataclass(frozen=True)
class Awaiting:
    """A dequeued training batch whose gradients have not been applied."""

    looked_up: LookedUp
    activations: list[Tensor]
    """In feature order; leaves that collect `.grad`."""
    frozen: frozenset[int] = frozenset()
    """The tables that were frozen at the lookup: nobody has minded their gradients since."""


class StepQueue:
    """First in, first out per name; a call out of order raises and changes nothing."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._waiting: dict[str | None, deque[Queued]] = {}
        self._awaiting: dict[str | None, Awaiting] = {}
        self._accumulated: dict[str | None, list[Awaiting]] = {}
        self._cleared: set[str | None] = set()
        self._warned = False
        self._last_call: dict[str | None, str] = {}
        self.journal: list[tuple[object, ...]] | None = None
        """Takes note of each call while it is a list: its word, its name, and what else it is known by."""

    def check_room(self, name: str | None) -> None:
        """Raise RuntimeError if no further batch may wait."""
        count = len(self._waiting.get(name, ()))
        if count >= self.depth:
            raise RuntimeError(
                f"enqueue{_named(name)}: {count} batches already wait, which is all that "
                f"enqueue_depth={self.depth} allows; call dequeue first"
            )

    def check_empty(self, name: str | None) -> None:
        """Raise RuntimeError if a batch waits: forward would return that one, not its own."""
        if self._waiting.get(name):
            raise RuntimeError(
                f"forward: {len(self._waiting[name])} enqueued batches wait; dequeue them first, or "
                "use enqueue and dequeue throughout"
            )

    def check_applied(self, name: str | None, call: str) -> None:
        """Raise RuntimeError if a training batch still awaits its gradients, and they were not cleared."""
        if name not in self._awaiting:
            return
        if name not in self._cleared:
            raise RuntimeError(
                f"{call}{_named(name)}: the training batch dequeued before still awaits its "
                "gradients; call apply_gradients (or the EmbeddingOptimizer's step) for it, or "
                "accumulate_gradients() to apply them with those of the next batch, or discard() to "
                "drop it, or use training=False / eval() for evaluation"
            )
        if not self._warned:
            warn_caller(
                f"{call}{_named(name)}: the training batch dequeued before is dropped without a step, "
                "for EmbeddingOptimizer.zero_grad() has cleared its gradients (this is said once)"
            )
            self._warned = True
        self.drop_step(name)

    def note(self, *call: object) -> None:
        """Write a call into the journal, if there is one."""
        if self.journal is not None:
            self.journal.append(call)

    def push(self, name: str | None, batch: Queued) -> None:
        self.note("enqueue", name)
        self._waiting.setdefault(name, deque()).append(batch)

    def remove(self, batch: Queued | None) -> None:
        """Forget one batch, if it waits."""
        for waiting in self._waiting.values():
            if batch is not None and batch in waiting:
                waiting.remove(batch)

    def waits(self, batch: Queued | None) -> bool:
        """True if this very batch was enqueued, and neither looked up nor dropped since."""
        return any(each is batch for waiting in self._waiting.values() for each in waiting)

    def next(self, name: str | None) -> Queued:
        """The batch to look up next, still waiting, or RuntimeError if it is not its turn."""
        waiting = self._waiting.get(name)
        if not waiting:
            raise RuntimeError(f"dequeue{_named(name)}: no batch waits; call enqueue first")
        if waiting[0].training:
            self.check_applied(name, "dequeue")
        return waiting[0]

    def waiting(self, name: str | None) -> Queued | None:
        """The batch that would be looked up next, whether it is its turn or not; None if there is none."""
        waiting = self._waiting.get(name)
        return waiting[0] if waiting else None

    def after(self, queued: Queued) -> Queued | None:
        """The batch that waits behind this one under the same name."""
        for waiting in self._waiting.values():
            if waiting and waiting[0] is queued and len(waiting) > 1:
                return waiting[1]
        return None

    def first(self) -> list[Queued]:
        """The first waiting batch of each name."""
        return [waiting[0] for waiting in self._waiting.values() if waiting]

    def looked_up(self, name: str | None, awaiting: Awaiting | None) -> None:
        """The next batch waits no longer; a training batch now awaits its gradients."""
        self.note("dequeue", name, awaiting is not None)
        self._waiting[name].popleft()
        self._last_call[name] = "inference" if awaiting is None else "training"
        if awaiting is not None:
            self._awaiting[name] = awaiting
            self._cleared.discard(name)

    def step_of(self, name: str | None) -> list[Awaiting]:
        """The batches of the step that is not yet applied: accumulated ones, and the one that awaits."""
        awaiting = self._awaiting.get(name)
        accumulated = self._accumulated.get(name, [])
        return [*accumulated, awaiting] if awaiting is not None else [*accumulated]

    def open_names(self) -> list[str | None]:
        """The names under which there is a step that has gradients, or had, and is not yet applied."""
        awaiting = {
            name
            for name, each in self._awaiting.items()
            if any(leaf.grad is not None for leaf in each.activations)
        }
        return [*{*self._accumulated, *awaiting, *self._cleared}]

    def open_batches(self) -> int:
        """How many batches the steps of `open_names` have that were not cleared."""
        names = self.open_names()
        return sum(len(self.step_of(name)) - (name in self._cleared) for name in names)

    def with_gradients(self) -> int:
        """How many batches have gradients that are neither applied nor cleared."""
        kept = sum(map(len, self._accumulated.values()))
        there = [self._awaiting[name] for name in self._awaiting if name not in self._cleared]
        return kept + sum(any(e.grad is not None for e in each.activations) for each in there)

    def require_step(self, name: str | None, call: str) -> list[Awaiting]:
        """`step_of`, or RuntimeError saying why there is none."""
        return self.step_of(name) or [self.require_awaiting(name, call)]

    def require_awaiting(self, name: str | None, call: str = "apply_gradients") -> Awaiting:
        """The training batch that awaits its gradients, or RuntimeError saying why there is none."""
        found = self._awaiting.get(name)
        if found is not None:
            return found
        why = {
            None: "no training batch was dequeued; call enqueue and dequeue first",
            "inference": "the batch dequeued last is an inference batch (training=False), which has "
            "no gradients to apply; enqueue with training=True to train",
            "apply": "it was already called for the training batch dequeued last; enqueue and dequeue "
            "the next one first"
            if call == "apply_gradients"
            else "apply_gradients was already called for the training batch dequeued last",
            "dropped": "the training batch dequeued last was dropped, for its step was skipped; enqueue "
            "and dequeue the next one first",
            "accumulate": "accumulate_gradients was already called for the training batch dequeued "
            "last; enqueue and dequeue the next one first",
        }[self._last_call.get(name)]
        raise RuntimeError(f"{call}{_named(name)}: {why}")

    def accumulated(self, name: str | None) -> None:
        """The batch that awaits its gradients has them; it waits for others."""
        self.note("accumulate", name)
        self._accumulated.setdefault(name, []).append(self._awaiting.pop(name))
        self._cleared.discard(name)
        self._last_call[name] = "accumulate"

    def cleared(self, name: str | None) -> None:
        """The gradients of the step were cleared: what was accumulated is gone, and the batch that awaits
        them may be followed by another if it has had some."""
        awaiting = self._awaiting.get(name)
        if self.step_of(name):
            self.note("clear", name)
        if self._accumulated.pop(name, None) and awaiting is None:
            self._last_call[name] = "dropped"
        if awaiting is not None and any(each.grad is not None for each in awaiting.activations):
            self._cleared.add(name)

    def applied(self, name: str | None) -> None:
        self.note("apply", name)
        self._forget(name)
        self._last_call[name] = "apply"

    def replayed(self, name: str | None, batch: Queued) -> None:
        """A batch was looked up and its gradients applied, by a program run again. Twice does no harm."""
        if self.waiting(name) is batch:
            self._waiting[name].popleft()
        self._last_call[name] = "apply"

    def drop_step(self, name: str | None) -> None:
        """Forget the batches whose gradients have not been applied."""
        if self.step_of(name):
            self.note("drop", name)
            self._last_call[name] = "dropped"
        self._forget(name)

    def _forget(self, name: str | None) -> None:
        self._awaiting.pop(name, None)
        self._accumulated.pop(name, None)
        self._cleared.discard(name)

    def discard(self, name: str | None) -> None:
        """Forget everything of `name`."""
        self.drop_step(name)
        for held in (self._waiting, self._last_call):
            held.pop(name, None)


def _named(name: str | None) -> str:
    return f"(name={name!r})" if name is not None else ""

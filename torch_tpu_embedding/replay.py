"""Replay: a training step that is traced a few times, and then run again from its compiled program.

What it needs, checks and refuses: docs/replay.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from . import runtime
from .embedding import TPUEmbedding
from .embedding_optimizer import EmbeddingOptimizer
from .replaying.calls import Call, Keys, call_of
from .replaying.capture import Capture, Traced
from .replaying.kept import Effort, Kept, KeptPrograms, failed_check
from .replaying.participants import Participants
from .replaying.program import Program
from .replaying.reasons import Reasons, counts_on_host, never_replayed
from .replaying.rerun import ProgramGoneError, Rerun
from .replaying.surroundings.surroundings import Surroundings
from .replaying.watch import CannotReplayError
from .runtime.torch_xla import programs
from .table_module import TableModule

_STRIKES = 3
_DIFFERENCES = 8
_CHANGES = 8


class Replay:
    """A training step to call in place of its function: it traces a few calls, and replays the others.

        step = tte.replay(train_step, embedding)
        for numbers in batches:  # an EmbeddingLoader's, or after `embedding.enqueue`
            loss = step(numbers)  # one whole step; no `runtime.sync` after it

    Made by `replay`, which documents it.

    Args:
        function: the step, as given to `replay`.
        embedding: as for `replay`.
        modules: as for `replay`.
        verify: as for `replay`.
        check_every: as for `replay`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        embedding: TPUEmbedding,
        modules: Iterable[nn.Module] = (),
        verify: int = 8,
        check_every: int = 256,
    ) -> None:
        if not callable(function):
            raise TypeError(f"replay: train_step must be a function, got {function!r}")
        if not isinstance(embedding, TPUEmbedding):
            raise TypeError(
                f"replay: embedding must be a TPUEmbedding, got {type(embedding).__name__}"
            )
        if not embedding.on_accelerator:
            raise ValueError(
                "replay: this TPUEmbedding is on the CPU, where nothing is traced; call the step itself"
            )
        for name, value in (("verify", verify), ("check_every", check_every)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"replay: {name} must be an int of at least 1, got {value!r}")
        self._modules = [*modules]
        for each in self._modules:
            if not isinstance(each, nn.Module):
                raise TypeError(f"replay: modules must be modules, got {type(each).__name__}")
        self._function = function
        self._embedding = embedding
        self._steps = embedding._steps.replayed
        self._verify, self._check_every = verify, check_every
        self._kept = KeptPrograms()
        self._parts: tuple[Participants, Keys, Capture, Rerun, Surroundings] | None = None
        self._name: str | None = None
        self._effort, self._reasons, self._changes = Effort(), Reasons(verify), 0
        self._off = False
        self.traced = 0
        """Steps traced so far."""
        self.replayed = 0
        """Steps replayed so far."""

    @property
    def reason(self) -> str:
        """Why the step traced last was not replayed, or is not yet; empty if there is nothing to say."""
        return self._reasons.last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step, and end it.

        Returns:
            What the step's function returns.

        Raises:
            ReplayError: this step was traced to check the replays before it, and is another program. It
                has run; the steps since the last check may be wrong.
            Exception: any that the function, `dequeue` or `apply_gradients` raises.
        """
        if self._off:
            return self._plain(args, kwargs)
        if self._parts is None:
            return self._first(args, kwargs)
        _, keys, _, rerun, around = self._parts
        queued = self._steps.next(self._name)
        if queued is not None and not programs.random_begins_anew(rerun.seed):
            return self._plain(args, kwargs)
        if queued is None:
            self._reasons.no_step(self._steps, self._name)
            return self._plain(args, kwargs)
        token, known = around.token()
        if not known:
            return self._surrounded_anew(around.change, args, kwargs)
        call = call_of(args, kwargs)
        try:
            key = keys.of(call, queued.sent, self._steps.frozen, token)
        except CannotReplayError as why:
            return self._refused(why, args, kwargs)
        kept = self._kept.of(key)
        if kept.strikes >= _STRIKES:
            return self._plain(args, kwargs)
        if kept.program is not None and (change := self._change(kept.program)):
            # No trace of what comes now says anything of the replays before.
            kept.program, kept.replayed, self._reasons.last = None, 0, change
        if kept.agreed < self._verify and self._effort.rests():
            return self._plain(args, kwargs)
        if kept.program is None or kept.due == 0:
            return self._trace(kept, call)
        try:
            result = rerun.run(kept.program, call, self._name, queued)
        except ProgramGoneError:
            if self._embedding.placement.num_shards > 1:
                raise  # the others have agreed to take the step
            kept.program, self._reasons.last = None, "torch_xla has dropped its program"
            return self._trace(kept, call)
        except CannotReplayError as why:
            return self._refused(why, args, kwargs)
        kept.due -= 1
        kept.replayed += 1
        self.replayed += 1
        self._changes = 0
        self._reasons.replayed()
        self._effort.replayed()
        return result

    def _first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A traced step that shows who takes part."""
        why = never_replayed(self._steps)
        if why:
            self._give_up(why)
            return self._plain(args, kwargs)
        people = Participants(self._steps.engine, self._modules, EmbeddingOptimizer, TableModule)
        around = Surroundings(self._function, lambda: people.modules)
        queue, calls = self._steps.queue, list[tuple[object, ...]]()
        queue.journal = calls
        try:
            with people.watching():
                result = self._plain(args, kwargs)
        finally:
            queue.journal = None
        around.note_step(first=True)
        for word, name, *_ in calls:
            if word == "dequeue":
                assert name is None or isinstance(name, str)
                self._name = name
        rerun = Rerun(self._steps, people, self._rates, self._show_rates)
        gradients = self._embedding._steps.gradients
        capture = Capture(
            self._function,
            self._steps,
            people,
            rerun,
            gradients,
            lambda: self._driver() is not None,
            around,
        )
        self._parts = people, Keys(people), capture, rerun, around
        rerun.note(shared=True)
        if why := counts_on_host(people.optimizers):
            self._give_up(why)
            self._parts = None
        return result

    def _surrounded_anew(self, change: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A traced step after a change of a value that the function names."""
        self._changes += 1
        again = self._changes >= _CHANGES
        if again:
            self._effort.rest(2 * self._verify)
        self._reasons.traced(
            f"{change}; a number that changes often has to be an argument that is a tensor of the device, "
            "or a buffer of a module",
            sure=again,
        )
        return self._plain(args, kwargs)

    def _refused(
        self, why: Exception, args: Sequence[Any], kwargs: Mapping[str, Any], sure: bool = True
    ) -> Any:
        """A traced step that cannot be replayed, and the reason."""
        self._reasons.traced(str(why), sure)
        return self._plain(args, kwargs)

    def _plain(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A traced step, as without replay."""
        people, rerun = (self._parts[0], self._parts[3]) if self._parts else (None, None)
        on_host = people.on_host() if people is not None else []
        changes = people.changes(on_host) if people is not None else []
        self.traced += 1
        result = self._function(*args, **kwargs)
        runtime.sync()
        if people is not None:
            people.note_step(on_host, changes)
        if rerun is not None:
            rerun.release()
            rerun.note(shared=True)
        return result

    def _trace(self, kept: Kept, call: Call) -> Any:
        """A traced step whose program is kept, and compared with the one before."""
        assert self._parts is not None
        _, _, capture, rerun, _ = self._parts
        queued = self._steps.queue.waiting(self._name)
        assert queued is not None
        rerun.release()
        self.traced += 1
        trusted = kept.program if kept.agreed >= self._verify else None
        try:
            traced = capture.trace(call, queued, trusted, again=kept.program is not None)
        except CannotReplayError as why:
            kept.program, kept.agreed, kept.replayed, kept.strikes = None, 0, 0, kept.strikes + 1
            self.traced -= 1  # it is counted again
            return self._refused(why, call.args, call.kwargs, kept.strikes >= _STRIKES)
        self._judge(kept, traced)
        return traced.result

    def _judge(self, kept: Kept, traced: Traced) -> None:
        """Trust a program more, or less, after a trace."""
        before, replayed = kept.program, kept.replayed
        kept.program, kept.replayed, kept.due = traced.program, 0, 0
        if traced.program is None:
            kept.agreed = 0
            if traced.reason is not None:
                kept.strikes += 1
                self._fail_check(replayed, traced.reason)
                self._reasons.traced(traced.reason, sure=kept.strikes >= _STRIKES)
            return
        kept.strikes = 0
        change = before.difference(traced.program) if before is not None else None
        if change is not None:
            self._fail_check(replayed, change)
        why = change or traced.impurity
        kept.agreed = 0 if traced.impurity else 1 if change or before is None else kept.agreed + 1
        if kept.agreed >= self._verify:
            kept.due = min(2 ** min(kept.agreed - self._verify, 62), self._check_every)
            self._reasons.last, kept.differed = "", 0
            return
        kept.differed += bool(why)
        rests = self._effort.traced() or kept.differed >= max(_DIFFERENCES, self._verify)
        if rests:
            self._effort.rest(self._verify)
        self._reasons.traced(why or self._reasons.last, sure=rests)

    def _fail_check(self, replayed: int, why: str) -> None:
        if not replayed:
            return
        self._off = True
        self._kept.clear()
        raise failed_check(replayed, why)

    def _give_up(self, why: str) -> None:
        self._off = True
        self._reasons.traced(why, sure=True)

    def _change(self, program: Program) -> str | None:
        assert self._parts is not None
        return program.snapshot.change(self._parts[0])

    def _driver(self) -> EmbeddingOptimizer | None:
        """The EmbeddingOptimizer that takes this embedding's steps, if there is exactly one."""
        assert self._parts is not None
        found = [
            each
            for each in self._parts[0].table_optimizers
            if isinstance(each, EmbeddingOptimizer) and each._embedding is self._embedding
        ]
        return found[0] if len(found) == 1 else None

    def _rates(self) -> list[float]:
        driver = self._driver()
        return self._embedding.learning_rates() if driver is None else driver._rates()

    def _show_rates(self, rates: list[float]) -> None:
        driver = self._driver()
        if driver is not None and driver._shown is not rates:
            driver._show(rates)


def replay(
    train_step: Callable[..., Any],
    embedding: TPUEmbedding,
    *,
    modules: Iterable[nn.Module] = (),
    verify: int = 8,
    check_every: int = 256,
) -> Replay:
    """Make a training step that is traced a few times, and then run again from its compiled program.

        def train_step(numbers):
            loss = model(numbers, embedding.dequeue()).mean()
            loss.backward()
            dense_optimizer.step()
            embedding_optimizer.step()
            dense_optimizer.zero_grad()
            return loss.detach()

        step = tte.replay(train_step, embedding)

    To trace a step takes the host many times longer than to run its program. A replayed call gives the same
    numbers, bit for bit, without running `train_step`: its Python side effects happen in traced calls only.

    The contract: `train_step` dequeues one training batch and applies its gradients; all that it computes
    and that is wanted it returns, detached; and it does the same operations whenever it is called with
    arguments of the same shapes (numbers and texts: of the same values), modules in the same mode and
    optimizers with the same hyper-parameters. What else it reads are parameters and buffers of the modules
    that it calls, and states of optimizers. A step that does not fit is traced, with one warning that says
    why. A function that breaks the contract in a way that no trace shows (every thousandth call does
    something else) cannot be noticed before a check is made.

    Args:
        train_step: the function. It enqueues nothing and does not end the step.
        embedding: the TPUEmbedding that it dequeues from, on an XLA device.
        modules: those whose tensors it uses without calling them (an average of the weights).
        verify: traces in a row that must agree before the first replay.
        check_every: replays between two checks, in which a step is traced and compared; at first a check
            comes after 1, 2, 4, … replays.

    Returns:
        An object that is called in place of `train_step`, and ends the step itself. Its `traced` and
        `replayed` count steps, `reason` says why the last step was traced.

    Raises:
        TypeError, ValueError: an argument is wrong, or the embedding is on the CPU.
    """
    return Replay(train_step, embedding, modules, verify, check_every)

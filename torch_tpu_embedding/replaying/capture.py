"""A step, traced as ever, and run as a program that can be run again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from .. import runtime
from ..runtime import programs
from ..training.call_order import Queued
from ..training.replayed_steps import ReplayedSteps
from ..training.step_gradients import StepGradients
from .calls import Call
from .participants import Participants, Snapshot, snapshot
from .program import Program, Source
from .rerun import Rerun, run_to_end
from .watch import CannotReplayError, Watch


@dataclass(frozen=True)
class Traced:
    """A step that was traced and has run."""

    result: Any
    """What its function has returned."""
    program: Program | None
    """None if it cannot be run again."""
    reason: str | None = None
    """Why not, as the end of a sentence; None if that is but for now."""
    impurity: str | None = None
    """A reason to trust no single trace of it."""


class _Known:
    """Tensors by the number of their memory."""

    def __init__(self) -> None:
        self._sources: dict[int, Source | None] = {}
        self._seen: set[int] = set()

    def add(self, tensors: Sequence[Tensor | None], kind: str) -> None:
        """Take a list of tensors that an input may come from, under the list's name."""
        numbers = [n for n, each in enumerate(tensors) if programs.is_on_device(each)]
        present = [each for each in (tensors[n] for n in numbers) if each is not None]
        if not present:
            return
        for number, each, memory in zip(
            numbers, present, programs.memory_ids(present), strict=True
        ):
            if id(each) in self._seen:
                continue
            self._seen.add(id(each))
            # None: two tensors share it now, and may not later.
            self._sources[memory] = None if memory in self._sources else (kind, number)

    def source(self, memory: int, value: Tensor) -> Source | None:
        """The place of an input with this memory; None for a number that Python has put in.

        Raises:
            CannotReplayError: it has none.
        """
        shape = f"{str(value.dtype).removeprefix('torch.')} {[*value.shape]}"
        if memory not in self._sources:
            if value.dim() == 0:
                return None
            raise CannotReplayError(
                f"it reads a tensor ({shape}) that is neither an argument nor part of a module that is called "
                "or of an optimizer, or it sends one to the device; pass it as an argument, or register it "
                "as a buffer of a module, and name that module in replay(…, modules=[…]) if nobody calls it"
            )
        found = self._sources[memory]
        if found is None:
            raise CannotReplayError(
                f"two of its tensors ({shape}) share memory; give each its own (clone)"
            )
        return found


class Capture:
    """Traces steps of one function.

    Args:
        rates_known: True if rates that a step gives by hand are those of an EmbeddingOptimizer.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        steps: ReplayedSteps,
        participants: Participants,
        rerun: Rerun,
        gradients: StepGradients,
        rates_known: Callable[[], bool],
    ) -> None:
        self._gradients = gradients
        self._rerun = rerun
        self._function = function
        self._steps = steps
        self._participants = participants
        self._rates_known = rates_known

    def trace(self, call: Call, queued: Queued) -> Traced:
        """Take one step.

        Args:
            queued: the batch that it will look up.
        """
        programs.settle_all()
        before = snapshot(self._participants)
        self._rerun.own_memory(before.state)
        for each in (*before.state, *call.tensors):
            if each.dim() == 0:
                programs.own_memory(each)
        memory = programs.memory_ids(before.state)
        gradients = [each.grad for each in self._participants.parameters]
        known = _Known()
        known.add(before.state, "state")
        known.add(call.leaves, "argument")
        known.add([queued.sent.ints, queued.sent.floats], "batch")
        known.add(gradients, "gradient")
        before_it = [None if each is None else weakref.ref(each) for each in gradients]
        del gradients
        watch, count = Watch(self._participants, before.on_host), self._participants.count
        seed = programs.rng_seed()
        result, calls = self._call(call)
        self._participants.note_step(before.on_host, before.changes)
        try:
            if count != self._participants.count:
                raise CannotReplayError("")  # who takes part was not known before
            watch.check()
            if change := before.change(self._participants):
                raise CannotReplayError(f"in it {change}")
            check_calls(calls, self._rates_known())
            traced = _Step(self._participants, before, before_it, call, result)
            traced.check_memory(memory)
            counters = watch.counters()
            impurity = watch.impurity()
            program, inputs = self._program(traced, known, calls, counters)
        except CannotReplayError as why:
            runtime.sync()
            return Traced(result, None, str(why) or None)
        traced.run(program, inputs, programs.next_seed(seed))
        self._rerun.note(shared=False)
        return Traced(result, program, None, impurity)

    def _call(self, call: Call) -> tuple[Any, list[tuple[object, ...]]]:
        queue, calls = self._steps.queue, list[tuple[object, ...]]()
        queue.journal = calls
        try:
            with self._participants.watching():
                return self._function(*call.args, **call.kwargs), calls
        finally:
            queue.journal = None

    def _program(
        self,
        traced: _Step,
        known: _Known,
        calls: list[tuple[object, ...]],
        counters: list[Tensor],
    ) -> tuple[Program, list[Tensor]]:
        """The program of a traced step, and its inputs."""
        known.add([each.held for each in self._steps.engine.rates], "rates")
        limit = self._gradients.limit_buffer
        limits = programs.memory_ids([limit]) if limit is not None else []
        inputs: list[Source] = []
        values: list[Tensor] = []
        constants: list[Tensor] = []
        donated: list[Tensor] = []
        written = {("state", number) for number, _ in traced.changed}
        for value, memory, is_seed in programs.inputs_of(traced.roots):
            values.append(value)
            if is_seed:
                inputs.append(("seed", 0))
                continue
            source = None if memory in limits else known.source(memory, value)
            if source is None:
                source = "constant", len(constants)
                constants.append(value)
            elif source in written:
                donated.append(value)
            inputs.append(source)
        program = Program(
            programs.compiled(traced.roots, donated),
            inputs,
            constants,
            traced.snapshot,
            traced.changed,
            traced.gradients,
            traced.outputs,
            traced.structure,
            calls,
            counters,
            str(traced.roots[0].device),
        )
        return program, values


class _Step:
    """What a traced step will write: the tensors that are pending after it.

    Args:
        gradients: those of the parameters before it.
        result: what its function has returned.

    Raises:
        CannotReplayError: there are others, or what it returns cannot be made by a run of the program.
    """

    def __init__(
        self,
        participants: Participants,
        before: Snapshot,
        gradients: Sequence[weakref.ref[Tensor] | None],
        call: Call,
        result: Any,
    ) -> None:
        self.snapshot = before
        self.roots: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        state = before.state
        programs.apply_views(state)
        waits = programs.pending(state)
        self.changed = [(n, self._root(state[n])) for n, each in enumerate(waits) if each]
        of_state = {root for _, root in self.changed}
        self._of_gradients: list[tuple[Tensor, int]] = []
        self.gradients = self._gradients(participants, gradients)
        leaves, self.structure = pytree.tree_flatten(result)
        self._results: list[tuple[Tensor, int]] = []
        self.outputs = [self._output(each, call, of_state) for each in leaves]
        others = programs.num_pending() - len(self.roots)
        if others:
            raise CannotReplayError(
                f"{others} tensors that it computes are kept by something other than its result (a list, an "
                "attribute, a graph that was not run backward, autocast around the call); return them, "
                "detached"
            )

    def check_memory(self, before: Sequence[int]) -> None:
        """Make sure that nothing but the state itself has memory that the program will overwrite.

        Args:
            before: the numbers of the state's memory before the step.

        Raises:
            CannotReplayError: something has.
        """
        state = self.snapshot.state
        changed = {number for number, _ in self.changed}
        kept = [number for number in range(len(state)) if number not in changed]
        now = programs.memory_ids([state[number] for number in kept])
        if now != [before[number] for number in kept]:
            raise CannotReplayError(
                "it copies one tensor of the state into another as it was before the step; add a copy of the "
                "tensor to the end of the step, or copy outside"
            )
        storages = {programs.storage_id(each) for each in state}
        others = [e for e in programs.live_tensors() if programs.storage_id(e) not in storages]
        if programs.shared_memory(others, {before[number] for number in changed}):
            raise CannotReplayError(
                "a copy of a parameter, or of another tensor that it changes, is kept as it was before the "
                "step; copy outside"
            )

    def run(self, program: Program, inputs: list[Tensor], seed: int) -> None:
        """Run the step, and let all that was traced have its results."""

        def finish(results: list[Tensor]) -> None:
            programs.set_rng_seed(seed, program.device)
            for number, root in self.changed:
                programs.assign(self.snapshot.state[number], results[root])
            for each, root in (*self._of_gradients, *self._results):
                programs.assign(each, results[root])

        run_to_end(program.key, inputs, finish)

    def _root(self, value: Tensor) -> int:
        number = self._numbers.setdefault(programs.tensor_id(value), len(self.roots))
        if number == len(self.roots):
            self.roots.append(value)
        return number

    def _gradients(
        self, participants: Participants, before: Sequence[weakref.ref[Tensor] | None]
    ) -> list[tuple[int, int | None]]:
        found: list[tuple[int, int | None]] = []
        for number, (each, old) in enumerate(zip(participants.parameters, before, strict=True)):
            now = each.grad
            if now is None:
                if old is not None:
                    found.append((number, None))
            elif programs.is_on_device(now) and programs.pending([now])[0]:
                # What backward has left may be a view, whose base would be a result, too.
                now = each.grad = now.detach().clone()
                root = self._root(now)
                self._of_gradients.append((now, root))
                found.append((number, root))
            elif old is None or now is not old():
                raise CannotReplayError(
                    "it sets the gradient of a parameter to a tensor made elsewhere"
                )
        return found

    def _output(self, leaf: Any, call: Call, of_state: set[int]) -> tuple[str, Any]:
        if not isinstance(leaf, Tensor):
            return "value", leaf
        for number, each in enumerate(call.leaves):
            if leaf is each:
                return "argument", number
        if not programs.is_on_device(leaf):
            raise CannotReplayError(
                "it returns a tensor of the host; return it as it is on the device"
            )
        if leaf.requires_grad:
            raise CannotReplayError("it returns a tensor that requires grad; return loss.detach()")
        if not programs.pending([leaf])[0]:
            raise CannotReplayError(
                "it returns a tensor that it does not compute; read that outside"
            )
        root = self._root(leaf)
        if root in of_state:
            raise CannotReplayError(
                "it returns an alias of a tensor that it changes; return a copy (clone)"
            )
        self._results.append((leaf, root))
        return "result", root


def check_calls(calls: Sequence[tuple[object, ...]], rates_known: bool) -> None:
    """Check that a step looks up one training batch that waited before, and applies its gradients.

    Args:
        calls: the journal of the embedding's queue.
        rates_known: True if rates given by hand can be found again.

    Raises:
        CannotReplayError: it does something else.
    """
    words = [str(each[0]) for each in calls if each[0] != "clip"]
    if "enqueue" in words:
        raise CannotReplayError(
            "it enqueues; call enqueue (or take the loader's next batch) outside, and dequeue in the step"
        )
    if "accumulate" in words:
        raise CannotReplayError(
            "it accumulates gradients, whose rows the host has to merge each time"
        )
    if words != ["dequeue", "rates", "apply"] or calls[0][2] is not True:
        raise CannotReplayError(
            f"it calls {', '.join(w for w in words if w != 'rates') or 'nothing'} of the embedding; it has to "
            "dequeue one training batch and apply its gradients, once each"
        )
    if calls[-2][2] and not rates_known:
        raise CannotReplayError(
            "it gives learning_rates to apply_gradients; let an EmbeddingOptimizer have them, in its groups"
        )

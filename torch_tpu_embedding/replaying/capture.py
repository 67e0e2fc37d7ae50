"""A step, traced as ever, and run as a program that can be run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdRef

from .. import runtime
from ..runtime.torch_xla import programs
from ..runtime.torch_xla.held import release
from ..training.call_order import Queued
from ..training.replayed_steps import ReplayedSteps
from ..training.step_gradients import StepGradients
from .calls import Call
from .known_tensors import KnownTensors, UnknownTensorError
from .participants import Participants, snapshot
from .program import Program, Source
from .rerun import Rerun
from .surroundings.surroundings import Surroundings
from .traced_step import TracedStep, check_calls, without_views
from .unknown_reads import Form, UnknownReads
from .watch import CannotReplayError, Watch


@dataclass(frozen=True)
class Traced:
    """A step that was traced and has run."""

    result: Any
    """The results of the step's function."""
    program: Program | None
    """None if it cannot be run again."""
    reason: str | None = None
    """Why it cannot be run again, as the end of a sentence; None if the next trace may show that it can."""
    impurity: str | None = None
    """A reason not to trust this trace of it, as the end of a sentence."""


class Capture:
    """Traces steps of one function.

    Args:
        rates_known: True if rates that a step gives by hand are those of an EmbeddingOptimizer.
        around: what the function reads besides, as it was for the key of the call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        steps: ReplayedSteps,
        participants: Participants,
        rerun: Rerun,
        gradients: StepGradients,
        rates_known: Callable[[], bool],
        around: Surroundings,
    ) -> None:
        self._around = around
        self._unknown: Form | None = None
        """Dtype and shape of an unknown tensor that a trace has read; the next trace finds out where."""
        self._gradients = gradients
        self._rerun = rerun
        self._function = function
        self._steps = steps
        self._participants = participants
        self._rates_known = rates_known

    def trace(
        self, call: Call, queued: Queued, trusted: Program | None = None, again: bool = False
    ) -> Traced:
        """Take one step.

        Args:
            queued: the batch that it will look up.
            trusted: the program of earlier traces, if this is to check it.
            again: True if its program was traced before.

        Raises:
            CannotReplayError: no such step can be replayed; this one has not begun.
        """
        programs.settle_all()
        before = snapshot(self._participants)
        self._rerun.own_memory(before.state)
        gradients = [each.grad for each in self._participants.parameters]
        memory, known = self._memory(before.state, call, queued, gradients)
        before_it = [_known_weakly(each) for each in gradients]
        watch, count = Watch(self._participants, before.on_host), self._participants.count
        seed = programs.rng_seed()
        new = programs.NewTensors()
        reads = self._reads([*before.state, *call.leaves, *gradients])
        del gradients
        result, calls = self._call(call, before.state, reads)
        self._participants.note_step(before.on_host, before.changes)
        told = self._around.note_step(again=again)
        try:
            if count != self._participants.count:
                raise CannotReplayError("")  # who takes part was not known before
            watch.check()
            if change := before.change(self._participants):
                raise CannotReplayError(f"in it {change}")
            check_calls(calls, self._rates_known())
            traced = TracedStep(self._participants, before, before_it, call, result)
            counts = new.counts()
            # As many copies as ever: none went into a tensor that is older than the step.
            as_ever = trusted is not None and counts is not None and counts == trusted.counts
            traced.check_memory(memory, new.all() if as_ever else None)
            if told:
                raise CannotReplayError(told)
            counters = watch.counters()
            impurity = watch.impurity()
            program, inputs = self._program(traced, known, calls, counters)
            program.counts = counts
        except UnknownTensorError as why:
            runtime.sync()
            line = reads.line if reads is not None and self._unknown == why.form else ""
            self._unknown = why.form
            return Traced(result, None, f"{why} ({line})" if line else str(why))
        except CannotReplayError as why:
            runtime.sync()
            return Traced(result, None, str(why) or None)
        except (
            RuntimeError
        ) as error:  # of torch_xla; what is wrong with the step itself is raised again
            runtime.sync()
            return Traced(result, None, f"torch_xla cannot tell its inputs: {error}")
        traced.run(program, inputs, programs.next_seed(seed))
        release()
        self._rerun.note(shared=False)
        return Traced(result, program, None, impurity)

    def _memory(
        self,
        state: Sequence[Tensor],
        call: Call,
        queued: Queued,
        gradients: Sequence[Tensor | None],
    ) -> tuple[list[int], KnownTensors]:
        """The numbers of the state's memory, and all tensors that the step may read by theirs.

        Raises:
            CannotReplayError: torch_xla does not know the memory of one, as of a view of another tensor.
        """
        try:
            scalars = self._around.scalars()
            for each in (*state, *call.tensors, *scalars):
                if each.dim() == 0:
                    programs.own_memory(each)
            known = KnownTensors()
            known.add(state, "state")
            known.add(call.leaves, "argument")
            known.add(queued.sent.buffers, "batch")
            known.add(gradients, "gradient")
            known.add(scalars, "elsewhere")
            return programs.memory_ids(state), known
        except RuntimeError as error:
            raise CannotReplayError(
                "torch_xla cannot tell the memory of a tensor that it reads (a parameter or buffer that is "
                f"a view of another tensor?); give each its own (clone): {error}"
            ) from error

    def _reads(self, known: Sequence[Tensor | None]) -> UnknownReads | None:
        """Looks for the line that reads an unknown tensor, if the trace before has met one."""
        return None if self._unknown is None else UnknownReads(self._unknown, known)

    def _call(
        self, call: Call, state: Sequence[Tensor], reads: UnknownReads | None
    ) -> tuple[Any, list[tuple[object, ...]]]:
        """Run the step's function; gives its results, and the calls of the embedding's queue in it."""
        queue, calls = self._steps.queue, list[tuple[object, ...]]()
        queue.journal = calls
        try:
            with self._participants.watching(), reads or nullcontext():
                return without_views(self._function(*call.args, **call.kwargs), state), calls
        finally:
            queue.journal = None

    def _program(
        self,
        traced: TracedStep,
        known: KnownTensors,
        calls: list[tuple[object, ...]],
        counters: list[Tensor],
    ) -> tuple[Program, list[Tensor]]:
        """The program of a traced step, and its inputs."""
        known.add([each.tensor for each in self._steps.engine.rates], "rates")
        known.add(self._steps.engine.rounding_keys.tensors, "rounding")
        known.add(self._participants.sent_numbers(), "numbers")
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


def _known_weakly(gradient: Tensor | None) -> WeakIdRef | None:
    return None if gradient is None else WeakIdRef(gradient)  # type: ignore[no-untyped-call]

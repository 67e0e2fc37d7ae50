"""A program of a step, run again: inputs from where they are now, results into the state, and the host's
book-keeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..runtime.phases import timed
from ..runtime.torch_xla import held, programs
from ..training.call_order import Queued
from ..training.replayed_steps import ReplayedSteps
from .calls import Call
from .participants import Participants
from .program import Program
from .watch import CannotReplayError

_TRIES = 10


class ProgramGoneError(RuntimeError):
    """torch_xla did not begin to run a program, which it may have dropped since."""


def run_to_end(key: bytes, inputs: list[Tensor], finish: Callable[[list[Tensor]], None]) -> None:
    """Run a program and let `finish` have its results, also where an interrupt (Ctrl-C) comes between.

    Args:
        finish: may be called again where it was interrupted.

    Raises:
        ProgramGoneError: the program has not begun; nothing has changed.
    """
    results: list[list[Tensor]] = []
    try:
        try:
            programs.run_again(key, inputs, results)
        except RuntimeError as error:
            raise ProgramGoneError(str(error)) from error
        finish(results[0])
    except BaseException:
        for _ in range(_TRIES if results else 0):
            try:
                finish(results[0])
                break
            except BaseException:
                continue
        raise


class Rerun:
    """Runs programs again.

    Args:
        rates: gives the learning rate of each table now.
        show_rates: is told those that a step has taken.
    """

    def __init__(
        self,
        steps: ReplayedSteps,
        participants: Participants,
        rates: Callable[[], list[float]],
        show_rates: Callable[[list[float]], None],
    ) -> None:
        self._steps = steps
        self._participants = participants
        self._rates = rates
        self._show_rates = show_rates
        self._held: deque[list[Tensor]] = deque(maxlen=held.STEPS)
        """Memory that the last steps have overwritten, as in `held.py`, whose calls would take longer."""
        self._traces = programs.Traces()
        self.seed = -1
        """The seed of random numbers after the last step."""

    def release(self) -> None:
        """Let go of the memory that the last steps have overwritten."""
        self._held.clear()

    def note(self, shared: bool, made: int | None = None) -> None:
        """Take note that a step has ended.

        Args:
            shared: True if it may have let tensors of the state share memory.
            made: the number of tensors that it has made since `own_memory`; None if that is not known.
        """
        self.seed = programs.rng_seed()
        if not shared:
            self._traces.note(made)

    def own_memory(self, state: Sequence[Tensor]) -> bool:
        """Compute what was traced since the last step, and see that nothing else has the memory of the
        dense state, which a program overwrites.

        Args:
            state: as a snapshot has it, the tables' arrays first; nobody else has those.

        Returns:
            True if something may have been traced since the last step.

        Raises:
            CannotReplayError: a part of it is split over the devices.
        """
        pending, copied = self._traces.look()
        if pending:
            programs.compute_all()
        if not copied:
            return pending
        for each in state[self._steps.engine.store.num_arrays :]:
            if "devices=" in programs.sharding(each):
                raise CannotReplayError("a tensor of its dense state is split over the devices")
            programs.own_memory(each)
        return True

    @timed("replay")
    def run(self, program: Program, call: Call, name: str | None, queued: Queued) -> Any:
        """Take one step; gives what the step's function would return.

        Args:
            name, queued: the batch that it takes, which is the next one of this name.

        Raises:
            ValueError: a learning rate is wrong; nothing has changed.
        """
        rates = self._rates()
        self._participants.send_numbers()
        checked = self._steps.begin(queued, rates)
        traced = self.own_memory(program.snapshot.state)
        inputs = self._inputs(program, call, queued, checked)
        state, parameters = program.snapshot.state, self._participants.parameters
        counts = [each + 1 for each in program.counters]
        changes = self._participants.changes(program.counters)
        version = self._steps.engine.store.version + 1
        seed = programs.next_seed(programs.rng_seed())
        changed = [state[number] for number, _ in program.changed]
        overwritten = programs.memory_of(changed)
        if _repeats([*map(id, overwritten)]) or (traced and _repeats(programs.memory_ids(changed))):
            raise CannotReplayError(
                "two tensors that it changes share memory (`.data` of both is one tensor?); give each its "
                "own (clone)"
            )
        outputs: list[Any] = []
        made = 0

        def finish(results: list[Tensor]) -> None:
            nonlocal made
            made = len(results) + program.num_seeds
            # Not again, if it is called again after an interrupt.
            if not any(each is overwritten for each in self._held):
                self._held.append(overwritten)
            programs.set_rng_seed(seed, program.device)
            programs.assign(changed, [results[result] for _, result in program.changed])
            for number, of_gradient in program.gradients:
                parameters[number].grad = None if of_gradient is None else results[of_gradient]
            if counts:
                torch._foreach_copy_(program.counters, counts)
                self._participants.note_step(program.counters, changes)
            self._steps.note(name, queued, checked, version)
            self._show_rates(rates)
            sources = {"result": results, "argument": call.leaves}
            outputs[:] = [
                each if kind == "value" else sources[kind][each] for kind, each in program.outputs
            ]

        run_to_end(program.key, inputs, finish)
        self.note(shared=False, made=made)
        self._steps.end()
        return pytree.tree_unflatten(outputs, program.structure)

    def _inputs(
        self, program: Program, call: Call, queued: Queued, rates: list[float]
    ) -> list[Tensor]:
        """The inputs of a program, none of them pending."""
        engine = self._steps.engine
        lists: dict[str, list[Any]] = {
            "state": program.snapshot.state,
            "argument": call.leaves,
            "batch": queued.sent.buffers,
            "constant": program.constants,
            "numbers": self._participants.sent_numbers(),
        }
        found = []
        for kind, number in program.inputs:
            if kind in lists:
                found.append(lists[kind][number])
            elif kind == "rates":
                found.append(engine.rates_on_device(number, rates))
            elif kind == "rounding":
                found.append(engine.rounding_keys.on_device(number))
            elif kind == "gradient":
                found.append(self._participants.parameters[number].grad)
            else:
                found.append(programs.seed_tensor(program.device))
        programs.settle(found)  # rates, and arguments that were not computed yet
        return found


def _repeats(numbers: Sequence[int]) -> bool:
    """True if a number is there twice."""
    return len({*numbers}) < len(numbers)

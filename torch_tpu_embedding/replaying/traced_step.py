"""A step that was traced and has not run: what it will write, and whether that is all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdRef

from ..runtime.torch_xla import programs
from ..runtime.torch_xla.held import is_held
from .calls import Call
from .participants import Participants, Snapshot
from .program import Program
from .rerun import run_to_end
from .watch import CannotReplayError


class TracedStep:
    """The tensors that a traced step will write: those that are pending after it.

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
        gradients: Sequence[WeakIdRef | None],
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
                f"{others} tensors that it computes are kept by something other than its result (a list, "
                "an attribute, a graph that was not run backward, autocast around the call); return them, "
                "detached"
            )

    def check_memory(self, before: Sequence[int], suspects: Sequence[Tensor] | None) -> None:
        """Make sure that nothing but the state itself has memory that the program will overwrite.

        Args:
            before: the numbers of the state's memory before the step.
            suspects: the device tensors that may have it; None: all, which takes long to find.

        Raises:
            CannotReplayError: something has.
        """
        state = self.snapshot.state
        changed = {number for number, _ in self.changed}
        kept = [number for number in range(len(state)) if number not in changed]
        now = programs.memory_ids([state[number] for number in kept])
        if now != [before[number] for number in kept]:
            raise CannotReplayError(
                "it copies one tensor of the state into another as it was before the step; add a copy of "
                "the tensor to the end of the step, or copy outside"
            )
        storages = {programs.storage_id(each) for each in state}
        known = programs.live_tensors() if suspects is None else suspects
        live = [e for e in known if not is_held(e)]
        others = [e for e in live if programs.storage_id(e) not in storages]
        if programs.shared_memory(others, {before[number] for number in changed}):
            raise CannotReplayError(
                "a copy of a parameter, or of another tensor that it changes, is kept as it was before the "
                "step; copy outside"
            )

    def run(self, program: Program, inputs: list[Tensor], seed: int) -> None:
        """Run the step, and let all that was traced have its results."""

        def finish(results: list[Tensor]) -> None:
            programs.set_rng_seed(seed, program.device)
            of_state = [(self.snapshot.state[number], root) for number, root in self.changed]
            targets = [*of_state, *self._of_gradients, *self._results]
            programs.assign([each for each, _ in targets], [results[root] for _, root in targets])

        run_to_end(program.key, inputs, finish)

    def _root(self, value: Tensor) -> int:
        number = self._numbers.setdefault(programs.tensor_id(value), len(self.roots))
        if number == len(self.roots):
            self.roots.append(value)
        return number

    def _gradients(
        self, participants: Participants, before: Sequence[WeakIdRef | None]
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


def without_views(result: Any, state: Sequence[Tensor]) -> Any:
    """A step's results, with copies in place of views: the base of a view would be a result, too.

    Args:
        state: whose aliases are left as they are.
    """
    storages = {programs.storage_id(each) for each in state}

    def copied(leaf: object) -> object:
        if not isinstance(leaf, Tensor) or not programs.is_on_device(leaf) or leaf.requires_grad:
            return leaf
        if programs.storage_id(leaf) in storages or not programs.pending([leaf])[0]:
            return leaf
        return leaf.detach().clone()

    return pytree.tree_map(copied, result)


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
            f"it calls {', '.join(w for w in words if w != 'rates') or 'nothing'} of the embedding; it has "
            "to dequeue one training batch and apply its gradients, once each"
        )
    if calls[-2][2] and not rates_known:
        raise CannotReplayError(
            "it gives learning_rates to apply_gradients; let an EmbeddingOptimizer have them, in its groups"
        )

"""The gradients of a step between backward and the update: checked, clipped by their norm, summed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import runtime
from ..config.nest import flatten_like
from ..distributed.calls import calling
from ..inputs.gradients import collect_gradients, warn_of_missing
from ..program.accumulation import Merger
from ..program.build import Tables
from ..program.gradient_norm import check_arguments, check_device, clip_factor, total_norm
from ..program.stack_index import LookedUp
from ..runtime import host
from ..runtime.modes import for_tables
from .agreed_steps import AgreedSteps
from .call_order import Awaiting, StepQueue

Found = list[list[Tensor | None]]
"""One gradient, or None, per feature, for each batch of a step."""
_ToClip = tuple[list[Awaiting], Found, tuple[float, float, list[Tensor]]]
"""A step, its gradients, and the checked arguments of `clip`."""


@dataclass(frozen=True)
class _Clipped:
    """A step's gradients as `clip` has left them."""

    looked_up: LookedUp
    """Its batches as one, with the clipped gradients of its rows."""
    gradients: Found
    """The activations' `.grad`, which are clipped too."""
    changes: list[int] | None
    """How often each of these had been changed in place; None if that is not known."""


class StepGradients:
    """The gradients of the batches that await their update."""

    def __init__(
        self, tables: Tables, queue: StepQueue, agreed: AgreedSteps, pipelined: bool
    ) -> None:
        self._tables = tables
        self._agreed = agreed
        self._queue = queue
        self._pipelined = pipelined
        self._warned: set[str] = set()
        self._merger: Merger | None = None
        self._limit = host.DeviceCopy()
        self._clipped: dict[str | None, _Clipped] = {}

    def clip(
        self,
        max_norm: float,
        norm_type: float,
        dense_parameters: Iterable[Tensor] | Tensor,
        name: str | None,
    ) -> Tensor:
        """As `TPUEmbedding.clip_grad_norm_`."""
        call = "clip_grad_norm_"

        def check() -> tuple[_ToClip, Mapping[str, object]]:
            step = self._queue.require_step(name, call)
            activations = [each for batch in step for each in batch.activations]
            wanted = check_arguments(max_norm, norm_type, dense_parameters, activations)
            check_device(wanted[2], self._tables.device)
            norms = {"max_norm and norm_type are": wanted[:2]}
            return (step, self.collect(step, None, call), wanted), norms

        with calling(call):
            return self._clip(name, *self._agreed.check_together(call, name, check))

    @for_tables
    def _clip(
        self,
        name: str | None,
        step: Sequence[Awaiting],
        found: Found,
        wanted: tuple[float, float, list[Tensor]],
    ) -> Tensor:
        """`clip` with checked arguments: the largest norm, p, and the dense parameters."""
        limit, order, dense = wanted
        self._queue.note("clip", name, limit, order)
        looked_up = self._sum_step(step, self._of_trained_tables(step, found))
        gradients = [each.grad for each in dense if each.grad is not None]
        exchange = self._tables.engine.exchange
        device = self._tables.device
        norm = total_norm(exchange, looked_up.row_gradients, gradients, order, device)
        factor = clip_factor(norm, self._on_device(limit))
        _scale([*dense, *(each for batch in step for each in batch.activations)], factor)
        rows = {n: each * factor for n, each in looked_up.row_gradients.items()}
        self._keep_clipped(name, step, replace(looked_up, row_gradients=rows))
        return norm.sum()  # of one number: a scalar that is no view

    def accumulate(self, gradients: Any, name: str | None) -> None:
        """As `TPUEmbedding.accumulate_gradients`."""
        call = "accumulate_gradients"

        def check() -> tuple[tuple[Awaiting, list[Tensor | None]], Mapping[str, object]]:
            self._require_sums(call)
            awaiting = self._queue.require_awaiting(name, call)
            return (awaiting, self.collect([awaiting], gradients, call)[0]), {}

        awaiting, found = self._agreed.check_together(call, name, check)
        if gradients is not None:
            _give(awaiting.activations, found)
        awaiting.looked_up.end_program()
        self._queue.accumulated(name)

    def _require_sums(self, call: str) -> None:
        if self._pipelined:
            raise RuntimeError(
                f"{call}: in pipelined execution the micro-batches of a step would read different tables; "
                "create the TPUEmbedding without pipeline_execution_with_tensor_core"
            )
        for table in self._tables.resolved.tables:
            if table.optimizer is not None and table.optimizer.steps_per_occurrence:
                raise RuntimeError(
                    f"{call}: table {table.name!r} takes an optimizer step for each occurrence of an id "
                    "(use_gradient_accumulation=False), so there is no sum to keep; call apply_gradients "
                    "for each batch, or leave use_gradient_accumulation=True"
                )

    def collect(
        self, step: Sequence[Awaiting], gradients: Any, call: str, warn: bool = False
    ) -> Found:
        """The checked gradients of each batch of a step.

        Args:
            gradients: of the last one, nested like feature_config; None takes the `.grad` of activations.
            warn: of those that are missing, once.
        """
        resolved, frozen = self._tables.resolved, self._agreed.frozen_in(step)
        features = resolved.features
        given = None
        if gradients is not None:
            given = flatten_like(resolved.structure, gradients, "gradients")
        every = [*[None] * (len(step) - 1), given]
        found = [
            collect_gradients(features, each.activations, of_batch, call, frozen)
            for each, of_batch in zip(step, every, strict=True)
        ]
        if warn:
            for of_batch in found:
                warn_of_missing(features, of_batch, self._warned, frozen)
        return found

    def _of_trained_tables(self, step: Sequence[Awaiting], found: Found) -> Found:
        """The gradients without those of features of frozen tables."""
        frozen = self._agreed.frozen_in(step)
        trained = [f.table_index not in frozen for f in self._tables.resolved.features]
        return [
            [each if moves else None for each, moves in zip(of_batch, trained, strict=True)]
            for of_batch in found
        ]

    def for_update(
        self, name: str | None, step: Sequence[Awaiting], found: Found
    ) -> tuple[LookedUp, list[Tensor]]:
        """A step as `Engine.update` takes it: its batches as one, and the gradient of each feature."""
        looked_up = self._clipped_rows(name, found)
        if looked_up is None:
            looked_up = step[0].looked_up if len(step) == 1 else self._sum_step(step, found)
        return looked_up, _filled(step[-1], found[-1])

    @property
    def limit_buffer(self) -> Tensor | None:
        """The device buffer of the largest norm that `clip` was given last, if it was called."""
        return self._limit.tensor

    def forget_clipped(self, name: str | None) -> None:
        """The step of `name` is another one than `clip` was called for."""
        self._clipped.pop(name, None)

    def _sum_step(self, step: Sequence[Awaiting], found: Found) -> LookedUp:
        """The batches of a step as one, with the gradients of its rows."""
        engine = self._tables.engine
        batches = [each.looked_up.batch for each in step]
        filled = [_filled(each, of_batch) for each, of_batch in zip(step, found, strict=True)]
        sums = [engine.sum_gradients(*each) for each in zip(batches, filled, strict=True)]
        if len(step) == 1:
            return replace(step[0].looked_up, row_gradients=sums[0])
        if self._merger is None:
            self._merger = Merger(self._tables.resolved, engine)
        return self._merger.merge(batches, sums, [each.activations for each in step])

    def _keep_clipped(
        self, name: str | None, step: Sequence[Awaiting], looked_up: LookedUp
    ) -> None:
        """Remember the rows' clipped gradients, so that the update does not sum them again."""
        for number, stack in enumerate(self._tables.engine.store.stacks):
            if stack.steps_per_occurrence:
                looked_up.row_gradients.pop(number, None)
        gradients = [[each.grad for each in batch.activations] for batch in step]
        self._clipped[name] = _Clipped(looked_up, gradients, _changes(gradients))

    def _clipped_rows(self, name: str | None, found: Found) -> LookedUp | None:
        """The step as `clip` has kept it; None if its gradients are, or may be, others now."""
        clipped = self._clipped.pop(name, None)
        if clipped is None:
            return None
        unchanged = clipped.changes is not None and clipped.changes == _changes(clipped.gradients)
        same = unchanged and _same(clipped.gradients, found)
        group = self._tables.engine.exchange.group
        if group.size > 1:  # all go the same way
            same = bool(group.gather(host.ints([same])).all())
        return clipped.looked_up if same else None

    def _on_device(self, limit: float) -> Tensor:
        """A norm in a buffer: a new number in the program would recompile."""
        return self._limit.hold(limit, lambda: host.floats([limit]).to(self._tables.device))


@for_tables
def _give(leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Let leaves have copies of gradients."""
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = None if gradient is None else gradient.clone()


def _scale(leaves: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply gradients, not in place: what backward left on a dense parameter may be an expanded view."""
    for each in leaves:
        if each.grad is not None:
            each.grad = (each.grad * factor).to(each.grad.dtype)


def _filled(batch: Awaiting, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """One gradient per feature in float32, in which they are summed; zeros where there is none."""
    pairs = zip(batch.activations, gradients, strict=True)
    return [
        torch.zeros_like(each, dtype=torch.float32) if gradient is None else gradient.float()
        for each, gradient in pairs
    ]


def _changes(gradients: Found) -> list[int] | None:
    """How often each of the gradients was changed in place; None if that is not known of one."""
    there = [each for of_batch in gradients for each in of_batch if each is not None]
    counts = [runtime.times_changed(each) for each in there]
    known = [each for each in counts if each is not None]
    return known if len(known) == len(counts) else None


def _same(one: Found, other: Found) -> bool:
    """True if both hold the very same tensors."""
    return [[id(each) for each in part] for part in one] == [
        [id(each) for each in part] for part in other
    ]

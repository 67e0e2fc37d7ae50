"""The part of TPUEmbedding between backward and the update: clipping by the norm, and accumulation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import runtime
from .agreed_steps import AgreedSteps
from .config.nest import flatten_like
from .distributed.calls import calling
from .inputs.gradients import collect_gradients, warn_of_missing
from .program.accumulation import Merger
from .program.engine import LookedUp
from .program.gradient_norm import check_arguments, check_device, clip_factor, total_norm
from .runtime import host
from .runtime.modes import for_tables, outside_graph
from .training.call_order import Awaiting
from .training.pipelining import Pipeline

_Found = list[list[Tensor | None]]
"""One gradient, or None, per feature, for each batch of a step."""
_ToClip = tuple[list[Awaiting], _Found, tuple[float, float, list[Tensor]]]
"""A step, its gradients, and the checked arguments of `clip_grad_norm_`."""


@dataclass(frozen=True)
class _Clipped:
    """A step's gradients as `clip_grad_norm_` has left them."""

    looked_up: LookedUp
    """Its batches as one, with the clipped gradients of its rows."""
    gradients: _Found
    """The activations' `.grad`, which are clipped too."""
    changes: list[int]
    """How often each of these had been changed in place."""


class GradientSteps(AgreedSteps):
    """Tables whose gradients can be clipped by their norm, and gathered over several batches."""

    activations_by_table: list[list[Tensor]]
    _pipeline: Pipeline | None
    _warned: set[str]
    _merger: Merger | None = None
    _limit: tuple[float, Tensor] | None = None
    _clipped: dict[str | None, _Clipped]
    """For each name whose step `clip_grad_norm_` was called for."""

    @outside_graph
    def clip_grad_norm_(
        self,
        max_norm: float,
        norm_type: float = 2.0,
        dense_parameters: Iterable[Tensor] | Tensor = (),
        name: str | None = None,
    ) -> Tensor:
        """Clip the gradient of the whole model by its norm; call it after backward, before the updates.

            embedding.clip_grad_norm_(1.0, dense_parameters=head.parameters())

        The norm is that of torch's dense autograd: of each id of each table that has an optimizer the
        gradients of all its places are summed first, over samples, features, accumulated batches, devices
        and processes. (`torch.nn.utils.clip_grad_norm_` on activations measures each place by itself, and
        those of this process alone.) A table with use_gradient_accumulation=False counts by its sums, too;
        a frozen one does not count.

        It is part of the step's program: nothing is read from the device, another max_norm compiles
        nothing. Several processes that exchange rows through gloo meet once more. A collective call.

        Args:
            max_norm: what the norm may be at most; inf only measures.
            norm_type: p of the p-norm, above 0; inf for the largest number.
            dense_parameters: of the dense model; those without a gradient are left out. With several
                processes sum their gradients first (`distributed.sum_gradients`): every process has the
                same, and they count once.
            name: as given to `enqueue`.

        Returns:
            The norm before clipping, a float32 scalar on the device. The activations' `.grad`, and those
            of the dense parameters, are replaced by clipped ones.

        Raises:
            TypeError, ValueError: an argument is wrong, or it, the frozen tables or the dense gradients
                differ between processes.
            RuntimeError: no training batch awaits gradients, backward has not run, or the device is the
                CPU. In every case the gradients are as before.
        """
        call = "clip_grad_norm_"
        if not self.on_accelerator:
            raise RuntimeError(
                f"{call}: this TPUEmbedding is on the CPU, where tables are plain parameters; use "
                "torch.nn.utils.clip_grad_norm_([*embedding.parameters(), *dense_parameters], max_norm)"
            )

        def check() -> tuple[_ToClip, Mapping[str, object]]:
            step = self._queue.require_step(name, call)
            activations = [each for batch in step for each in batch.activations]
            wanted = check_arguments(max_norm, norm_type, dense_parameters, activations)
            check_device(wanted[2], self.device)
            norms = {"max_norm and norm_type are": wanted[:2]}
            return (step, self._collect(step, None, call), wanted), norms

        with calling(call):
            return self._clip(name, *self._together(call, name, check))

    @outside_graph
    def accumulate_gradients(self, gradients: Any = None, name: str | None = None) -> None:
        """Keep the gradients of the training batch dequeued last for the next `apply_gradients`.

        Called in place of it for all but the last of K micro-batches (or for all). The update is that of
        one batch of all their samples, to rounding: the gradients of an id are summed over all batches,
        then it gets one optimizer step. Nothing is averaged: divide each loss by K for the mean. The
        tables do not change in between, and the activations stay, also in the param groups of
        EmbeddingOptimizer, so that what is done to gradients is done to all: on the device there are K
        times the activations and gradients of a batch. Each K is one more program.

        Args:
            gradients, name: as for `apply_gradients`.

        Raises:
            TypeError, ValueError: a gradient has the wrong nest, shape, dtype or device.
            RuntimeError: no training batch awaits gradients, backward has not run, execution is
                pipelined, a table steps once per occurrence, or the device is the CPU.
        """
        call = "accumulate_gradients"
        if not self.on_accelerator:
            raise RuntimeError(
                f"{call}: this TPUEmbedding is on the CPU, where tables are plain parameters and backward "
                "accumulates their gradients by itself; leave the call out"
            )

        def check() -> tuple[tuple[Awaiting, list[Tensor | None]], Mapping[str, object]]:
            self._require_sums(call)
            awaiting = self._queue.require_awaiting(name, call)
            return (awaiting, self._collect([awaiting], gradients, call)[0]), {}

        awaiting, found = self._together(call, name, check)
        if gradients is not None:
            _give(awaiting.activations, found)
        awaiting.looked_up.weight_records = []  # lest this program write them out: others will be read
        self._queue.accumulated(name)
        self._step_changed(name)

    @outside_graph
    def mark_cleared(self) -> None:
        """Take note that the gradients of the step are about to be cleared (`EmbeddingOptimizer`).

        What was accumulated is dropped. The batch that awaits its gradients, if it has had some, may still
        get others, or be followed by the next one.
        """
        self._queue.cleared(None)
        self._step_changed(None)

    @outside_graph
    def discard_step(self, name: str | None = None) -> None:
        """Forget the batch that awaits its gradients and those accumulated; batches that wait stay."""
        self._queue.drop_step(name)
        self._step_changed(name)

    @for_tables
    def _clip(
        self,
        name: str | None,
        step: Sequence[Awaiting],
        found: _Found,
        wanted: tuple[float, float, list[Tensor]],
    ) -> Tensor:
        """`clip_grad_norm_` with checked arguments: the largest norm, p, and the dense parameters."""
        limit, order, dense = wanted
        looked_up = self._sum_step(step, self._of_trained_tables(step, found))
        gradients = [each.grad for each in dense if each.grad is not None]
        exchange = self.engine.exchange
        norm = total_norm(exchange, looked_up.row_gradients, gradients, order, self.device)
        factor = clip_factor(norm, self._on_device(limit))
        _scale([*dense, *(each for batch in step for each in batch.activations)], factor)
        rows = {n: each * factor for n, each in looked_up.row_gradients.items()}
        self._keep_clipped(name, step, replace(looked_up, row_gradients=rows))
        return norm.sum()  # of one number: a scalar that is no view

    def _require_sums(self, call: str) -> None:
        if self._pipeline is not None:
            raise RuntimeError(
                f"{call}: in pipelined execution the micro-batches of a step would read different tables; "
                "create the TPUEmbedding without pipeline_execution_with_tensor_core"
            )
        for table in self.resolved.tables:
            if table.optimizer is not None and table.optimizer.steps_per_occurrence:
                raise RuntimeError(
                    f"{call}: table {table.name!r} takes an optimizer step for each occurrence of an id "
                    "(use_gradient_accumulation=False), so there is no sum to keep; call apply_gradients "
                    "for each batch, or leave use_gradient_accumulation=True"
                )

    def _collect(
        self, step: Sequence[Awaiting], gradients: Any, call: str, warn: bool = False
    ) -> _Found:
        """The checked gradients of each batch of a step.

        Args:
            gradients: of the last one, nested like feature_config; None takes the `.grad` of activations.
            warn: of those that are missing, once.
        """
        features, structure = self.resolved.features, self.resolved.structure
        given = None if gradients is None else flatten_like(structure, gradients, "gradients")
        frozen = self._frozen_in(step)
        every = [*[None] * (len(step) - 1), given]
        found = [
            collect_gradients(features, each.activations, of_batch, call, frozen)
            for each, of_batch in zip(step, every, strict=True)
        ]
        if warn:
            for of_batch in found:
                warn_of_missing(features, of_batch, self._warned, frozen)
        return found

    def _of_trained_tables(self, step: Sequence[Awaiting], found: _Found) -> _Found:
        """The gradients without those of features of frozen tables."""
        frozen = self._frozen_in(step)
        trained = [feature.table_index not in frozen for feature in self.resolved.features]
        return [
            [each if moves else None for each, moves in zip(of_batch, trained, strict=True)]
            for of_batch in found
        ]

    def _sum_step(self, step: Sequence[Awaiting], found: _Found) -> LookedUp:
        """The batches of a step as one, with the gradients of its rows."""
        batches = [each.looked_up.batch for each in step]
        filled = [_filled(each, of_batch) for each, of_batch in zip(step, found, strict=True)]
        sums = [self.engine.sum_gradients(*each) for each in zip(batches, filled, strict=True)]
        if len(step) == 1:
            return replace(step[0].looked_up, row_gradients=sums[0])
        if self._merger is None:
            self._merger = Merger(self.resolved, self.engine)
        return self._merger.merge(batches, sums, [each.activations for each in step])

    def _update(
        self,
        name: str | None,
        step: Sequence[Awaiting],
        found: _Found,
        rates: Sequence[float],
    ) -> None:
        """Apply the gradients of a step, or have the pipeline hold them; it is over then."""
        looked_up = self._clipped_rows(name, found)
        if looked_up is None:
            looked_up = step[0].looked_up if len(step) == 1 else self._sum_step(step, found)
        gradients = _filled(step[-1], found[-1])
        if self._pipeline is None:
            self.engine.update(looked_up, gradients, rates)
        else:
            self._pipeline.hold(name, looked_up, gradients, rates)
        self._queue.applied(name)
        self._step_changed(name)

    def _keep_clipped(
        self, name: str | None, step: Sequence[Awaiting], looked_up: LookedUp
    ) -> None:
        """Remember the rows' clipped gradients, lest the update sum them up again."""
        for number, stack in enumerate(self.engine.store.stacks):
            if stack.steps_per_occurrence:
                looked_up.row_gradients.pop(number, None)
        gradients = [[each.grad for each in batch.activations] for batch in step]
        self._clipped[name] = _Clipped(looked_up, gradients, _changes(gradients))

    def _clipped_rows(self, name: str | None, found: _Found) -> LookedUp | None:
        """The step as `clip_grad_norm_` has kept it, if these are its gradients and none was changed."""
        clipped = self._clipped.pop(name, None)
        if clipped is None:
            return None
        same = _same(clipped.gradients, found) and clipped.changes == _changes(clipped.gradients)
        group = self.engine.exchange.group
        if group.size > 1:  # all go the same way
            same = bool(group.gather(host.ints([same])).all())
        return clipped.looked_up if same else None

    def _on_device(self, limit: float) -> Tensor:
        """A norm in a buffer: a new number in the program would recompile."""
        if self._limit is None or self._limit[0] != limit:
            self._limit = (
                limit,
                torch.tensor([limit], dtype=torch.float32, device="cpu").to(self.device),
            )
        return self._limit[1]

    def _step_changed(self, name: str | None) -> None:
        """Let the param groups have the activations of the step, and forget what is known of another.

        A tensor that is still referenced at the end of the step is written out by its program.
        """
        self._clipped.pop(name, None)
        if name is not None:
            return
        for activations in self.activations_by_table:
            activations.clear()
        step = self._queue.step_of(None)
        frozen = self._frozen_in(step) if step else frozenset()
        for batch in step:
            for feature, each in zip(self.resolved.features, batch.activations, strict=True):
                if feature.table_index not in frozen:
                    self.activations_by_table[feature.table_index].append(each)


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
    """One gradient per feature, zeros where there is none."""
    pairs = zip(batch.activations, gradients, strict=True)
    return [torch.zeros_like(each) if gradient is None else gradient for each, gradient in pairs]


def _changes(gradients: _Found) -> list[int]:
    return [
        runtime.times_changed(each)
        for of_batch in gradients
        for each in of_batch
        if each is not None
    ]


def _same(one: _Found, other: _Found) -> bool:
    """True if both hold the very same tensors."""
    return [[id(each) for each in part] for part in one] == [
        [id(each) for each in part] for part in other
    ]

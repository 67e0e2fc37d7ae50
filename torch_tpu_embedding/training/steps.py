"""A training step from the host's ids to the update: the logic behind the calls of `TPUEmbedding`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import runtime
from ..batch.batcher import Batcher
from ..batch.sample_padding import SampleCount
from ..config.learning_rates import check_rates, current_rates
from ..distributed.calls import calling
from ..inputs.bags import Bags
from ..inputs.gradients import make_leaf
from ..inputs.id_range import ID_BOUNDS
from ..inputs.output_shapes import OutputShapes
from ..inputs.parse import parse_features
from ..monitoring.metrics import MetricsSwitch
from ..program.build import Tables
from ..program.engine import Engine
from ..runtime.modes import for_tables, refuse_transforms
from ..runtime.phases import mark, timed
from ..vocabularies.rows_of_ids import bags_of_rows
from .agreed_steps import AgreedSteps
from .call_order import Awaiting, Queued, StepQueue
from .open_steps import register
from .pipelining import Pipeline
from .replayed_steps import ReplayedSteps
from .step_gradients import Found, StepGradients


class Steps:
    """Batches on their way through one module: enqueued, looked up, awaiting gradients, applied.

    Args:
        tables: of the module.
        metrics: counts what is prepared and applied, while switched on.
        batch_size, id_bounds, enqueue_depth: as for TPUEmbedding.
        pipelined: its `pipeline_execution_with_tensor_core`.

    Raises:
        ValueError: the batch cannot be shared by the devices, or there is no XLA device to pipeline on.
    """

    def __init__(
        self,
        tables: Tables,
        metrics: MetricsSwitch,
        batch_size: int,
        id_bounds: str,
        enqueue_depth: int,
        pipelined: bool,
    ) -> None:
        resolved, placement = tables.resolved, tables.placement
        if id_bounds != "raise" and all(t.config.vocabulary is not None for t in resolved.tables):
            raise ValueError(
                f"TPUEmbedding: id_bounds={id_bounds!r} is about ids outside of a table, and all tables "
                "have a vocabulary, which takes every id; leave id_bounds 'raise'"
            )
        if batch_size % placement.num_devices:
            raise ValueError(
                f"TPUEmbedding: batch_size {batch_size} is the size of all processes together and must "
                f"be divisible by their {placement.num_devices} devices"
            )
        if pipelined and not tables.on_accelerator:
            raise ValueError(
                "TPUEmbedding: pipeline_execution_with_tensor_core=True needs an XLA device, got "
                f"{tables.device}"
            )
        self.activations_by_table: list[list[Tensor]] = [[] for _ in resolved.tables]
        """Per table the activations that await gradients; the `params` of EmbeddingOptimizer's groups."""
        self.shapes = OutputShapes(resolved, batch_size // placement.num_shards)
        self.queue = StepQueue(enqueue_depth)
        self._pipeline = Pipeline(self.queue.first) if pipelined else None
        self._agreed = AgreedSteps(tables, self.queue)
        self.gradients = StepGradients(tables, self.queue, self._agreed, pipelined)
        self._tables = tables
        self._metrics = metrics
        self._id_bounds = id_bounds
        self._samples = SampleCount(resolved, batch_size, placement.num_shards)
        self._count = 0
        self.replayed = ReplayedSteps(tables, self.queue, self._agreed, pipelined, self._end_replay)
        self.own_rates: Callable[[], None] | None = None
        """Called where an update takes the rates of the tables' optimizers (`EmbeddingOptimizer`)."""
        register(self)

    def works_on(self, engine: Engine) -> bool:
        """True if its tables are those of an engine."""
        return self._tables.built is engine

    @property
    def pipelined(self) -> bool:
        """True if `pipeline_execution_with_tensor_core` was chosen."""
        return self._pipeline is not None

    def enqueue(self, features: Any, weights: Any, training: bool, name: str | None) -> None:
        """As `TPUEmbedding.enqueue`."""
        self.queue.check_room(name)
        self.queue.push(name, self.prepare(features, weights, training))

    def prepare(
        self, features: Any, weights: Any, training: bool, batcher: Batcher | None = None
    ) -> Queued:
        """The first half of `enqueue`: check a batch and send it, without its place in the queue.

        Args:
            batcher: None for the one that `enqueue` uses; a thread beside it needs its own.
        """
        refuse_transforms()
        metrics = self._metrics.current
        if metrics is None:
            return self._prepare(features, weights, training, batcher)[0]
        with metrics.preparing():
            queued, parsed = self._prepare(features, weights, training, batcher)
            if training:
                metrics.observe(parsed, queued.sent)
        return queued

    def _prepare(
        self, features: Any, weights: Any, training: bool, batcher: Batcher | None
    ) -> tuple[Queued, Sequence[Bags]]:
        bags: Sequence[Bags] | Exception
        samples = None
        try:
            bags = self.parse(features, weights)
            samples = self._samples.of(bags, self.shapes.explicit, training)
            self.shapes.check(bags, samples.follows)
        except Exception as error:
            if self._tables.placement.num_shards == 1:
                raise
            bags = error  # the other processes must come to know
        sent = self._tables.engine.send(bags, training, batcher, samples)
        assert not isinstance(bags, Exception)
        assert samples is not None
        self.shapes.remember(bags, samples.follows)
        return Queued(sent, training), bags

    @timed("parse")
    def parse(self, features: Any, weights: Any) -> Sequence[Bags]:
        """The checked ids of a batch as rows, in feature order."""
        bags = parse_features(
            self._tables.resolved,
            features,
            weights,
            None,
            self._id_bounds,
            self.shapes.explicit,
            constant_weights=True,
        )
        return bags_of_rows(self._tables.resolved, bags)

    def enqueue_prepared(self, batch: Queued, following: Queued | None) -> None:
        """The second half of `enqueue`, for a batch that `prepare` gave.

        Args:
            following: the next one, if it is known: pipelined execution reads it ahead.
        """
        self.queue.check_room(None)
        self.queue.push(None, batch)
        if self._pipeline is not None:
            self._pipeline.next_batch = following

    def withdraw(self, batch: Queued | None) -> None:
        """Take back what `enqueue_prepared` was given, as far as it still waits."""
        self.queue.remove(batch)
        if self._pipeline is not None:
            self._pipeline.next_batch = None

    @timed("dequeue")
    def dequeue(self, name: str | None) -> list[Tensor]:
        """As `TPUEmbedding.dequeue`; the activations in feature order."""
        queued = self.queue.next(name)
        engine = self._tables.engine
        if not queued.training:
            engine.flush()
            _, activations = engine.look_up(queued.sent, keep_records=False)
            activations = self._as_wanted(engine.cut(queued.sent, activations))
            self.queue.looked_up(name, None)
            return activations
        self._begin_step()
        engine.flush(besides=self._pipeline)
        if self._pipeline is None:
            looked_up, activations = engine.look_up(queued.sent)
        else:
            behind = self.queue.after(queued)
            looked_up, activations = self._pipeline.step(engine, name, queued, behind)
        activations = [make_leaf(each) for each in self._as_wanted(activations)]
        runtime.allow_backward(self._tables.device)
        self.queue.looked_up(name, Awaiting(looked_up, activations, self._tables.frozen))
        self._step_changed(name)
        return activations

    def _as_wanted(self, activations: list[Tensor]) -> list[Tensor]:
        """Activations in feature order, each in the dtype that its feature asks for."""
        features = self._tables.resolved.features
        return [
            each if each.dtype == feature.output_dtype else _rounded(each, feature.output_dtype)
            for each, feature in zip(activations, features, strict=True)
        ]

    @timed("apply")
    def apply(
        self, gradients: Any, name: str | None, learning_rates: Sequence[float] | None
    ) -> None:
        """As `TPUEmbedding.apply_gradients`."""
        call = "apply_gradients"
        tables = self._tables.resolved.tables

        def check() -> tuple[tuple[list[Awaiting], Found, list[float]], Mapping[str, object]]:
            step = self.queue.require_step(name, call)
            if gradients is not None:
                self.queue.require_awaiting(name, call)
            found = self.gradients.collect(step, gradients, call, warn=True)
            rates = learning_rates
            if rates is None:
                if self.own_rates is not None:
                    self.own_rates()
                rates = current_rates(tables)
            if len(rates) != len(tables):
                raise ValueError(
                    f"apply_gradients: learning_rates must have one rate for each of the {len(tables)} "
                    f"tables, got {len(rates)}"
                )
            rates = check_rates(tables, rates, self._agreed.frozen_in(step))
            return (step, found, rates), {"the learning rates of the tables are": [*rates]}

        self.queue.note("rates", name, learning_rates is not None)
        engine = self._tables.engine
        with calling(call):
            step, found, rates = self._agreed.check_together(call, name, check)
            looked_up, of_last = self.gradients.for_update(name, step, found)
            if self._pipeline is None:
                engine.flush()
                engine.update(looked_up, of_last, rates)
            else:
                self._pipeline.hold(engine, name, looked_up, of_last, rates)
            self.queue.applied(name)
            self._step_changed(name)
        self._step_done()

    def _begin_step(self) -> None:
        mark("step", self._count)
        self._count += 1

    def _end_replay(self) -> None:
        """Count a step whose program was run again, as others are counted."""
        self._begin_step()
        self._step_done()

    def _step_done(self) -> None:
        """Count a step for metrics, which may call the user's callback."""
        if self._metrics.current is not None:
            self._metrics.current.step_done()

    def accumulate(self, gradients: Any, name: str | None) -> None:
        """As `TPUEmbedding.accumulate_gradients`."""
        self.gradients.accumulate(gradients, name)
        self._step_changed(name)

    def mark_cleared(self) -> None:
        """Take note that the gradients of the step are about to be cleared (`EmbeddingOptimizer`).

        What was accumulated is dropped. The batch that awaits its gradients, if it has had some, may still
        get others, or be followed by the next one.
        """
        self.queue.cleared(None)
        self._step_changed(None)

    def end_program(self) -> None:
        """A program is about to end between backward and the update; it need not write out the parts of the
        batches."""
        for each in self.queue.step_of(None):
            each.looked_up.indices = ()

    def discard_step(self, name: str | None = None) -> None:
        """Forget the batch that awaits its gradients and those accumulated; batches that wait stay."""
        self.queue.drop_step(name)
        self._step_changed(name)

    def discard(self, name: str | None) -> None:
        """As `TPUEmbedding.discard`."""
        self.queue.discard(name)
        self._step_changed(name)

    def _step_changed(self, name: str | None) -> None:
        """Let the param groups have the activations of the step, and forget what is known of another.

        A tensor that is still referenced at the end of the step is written out by its program.
        """
        self.gradients.forget_clipped(name)
        if name is not None:
            return
        for activations in self.activations_by_table:
            activations.clear()
        step, features = self.queue.step_of(None), self._tables.resolved.features
        frozen = self._agreed.frozen_in(step)
        for batch in step:
            for feature, each in zip(features, batch.activations, strict=True):
                if feature.table_index not in frozen:
                    self.activations_by_table[feature.table_index].append(each)


@for_tables
def _rounded(activation: Tensor, dtype: torch.dtype) -> Tensor:
    return activation.to(dtype)


def check_options(batch_size: object, enqueue_depth: object, id_bounds: str) -> None:
    """Check those arguments of TPUEmbedding that processes need not agree on to find them wrong.

    Raises:
        ValueError: one is wrong.
    """
    for name, value in (("batch_size", batch_size), ("enqueue_depth", enqueue_depth)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"TPUEmbedding: {name} must be an int of at least 1, got {value!r}")
    if id_bounds not in ID_BOUNDS:
        raise ValueError(
            f"TPUEmbedding: id_bounds must be one of {', '.join(map(repr, ID_BOUNDS))}, "
            f"got {id_bounds!r}"
        )

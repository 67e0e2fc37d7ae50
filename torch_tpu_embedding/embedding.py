"""TPUEmbedding: the module a training script holds. Queues, order of calls, nests and errors live here;
what is computed is in `engine.py`.

Letters: B batch, V vocabulary, D dim, L max_sequence_length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import runtime
from .batch.batcher import Batcher
from .batch.sample_padding import SampleCount
from .config.learning_rates import check_rates, current_rates
from .config.nest import pack_like
from .distributed.calls import calling
from .gradient_steps import GradientSteps
from .inputs.bags import ID_BOUNDS, Bags
from .inputs.gradients import make_leaf
from .inputs.output_shapes import OutputShapes
from .inputs.parse import parse_features
from .monitoring.describe import describe
from .optimizers import Optimizer
from .program.engine import Engine
from .program.plain_lookup import serving_embedding_lookup
from .runtime.modes import outside_graph, refuse_transforms
from .runtime.phases import mark, timed
from .tables.placement import Strategy
from .tf_forms import REQUIRED, require_size_and_optimizer, shapes_or_size
from .training import held_updates
from .training.call_order import Awaiting, Queued, StepQueue
from .training.pipelining import Pipeline


class TPUEmbedding(GradientSteps):
    """Embedding tables on an XLA device, after `tf.tpu.experimental.embedding.TPUEmbedding`.

    On an XLA device a step is `enqueue` (host ids in), `dequeue` (activations out), a backward pass,
    `apply_gradients` (the looked-up rows change, nothing else does). `forward` joins the first two;
    `EmbeddingOptimizer` wraps the last one as a torch optimizer. The tables are not `parameters()` there;
    `state_dict` reads them.

    With `device="cpu"` the tables are plain parameters for serving and inspection: `forward` and
    `embedding_tables` work, the three calls above raise RuntimeError.

    Started by torchrun, each process holds a shard of every table and enqueues its part of each batch;
    calls are collective: all processes make the same ones in the same order. See docs/distributed.md.

    Args:
        feature_config: a FeatureConfig, or a nest of them (dict, list, tuple).
        batch_size: B, samples in a batch of all processes together; each enqueues B / S.
        optimizer: for tables that have none of their own; None leaves those tables as they are.
        device: None for the default XLA device, or 'cpu'.
        sharding: 'mod' or 'div': which rows go to which process (`sharding.py`).
        process_group: a gloo group of the processes that share the tables; None for all that were started.
        pipeline_execution_with_tensor_core: True reads the rows of a step before the gradients of the step
            before are applied (a step sees the updates of all but the last one before it), so that reading
            and the dense model's work overlap; `flush` and all that looks at the tables apply the rest.
        id_bounds: what an id outside [0, V) does: 'raise', 'drop' (as if it were not there: a pooled
            feature ignores it, a dense or sequence feature gives zeros) or 'warn_and_drop'.
        seed: for start values; None draws one from torch's default generator.
        enqueue_depth: how many batches of one name may wait between enqueue and dequeue.
        initialize_tpu_embedding: False makes this a second object on the tables that another one, of an
            equal configuration, has built on the device; both see and change the same rows.
        layout: None for the layout that suits the device, or 'CPU' or 'TPU' to trace for another.

    Raises:
        TypeError, ValueError: an argument is wrong; the message says which and what is allowed.
    """

    def __init__(
        self,
        feature_config: Any,
        batch_size: int = REQUIRED,
        optimizer: Optimizer | None = REQUIRED,
        *,
        device: torch.device | str | None = None,
        sharding: Strategy = "mod",
        process_group: dist.ProcessGroup | None = None,
        pipeline_execution_with_tensor_core: bool = False,
        id_bounds: str = "raise",
        seed: int | None = None,
        enqueue_depth: int = 2,
        initialize_tpu_embedding: bool = True,
        layout: runtime.DeviceKind | None = None,
    ) -> None:
        require_size_and_optimizer(batch_size, optimizer)
        for name, value in (("batch_size", batch_size), ("enqueue_depth", enqueue_depth)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"TPUEmbedding: {name} must be an int of at least 1, got {value!r}"
                )
        if id_bounds not in ID_BOUNDS:
            raise ValueError(
                f"TPUEmbedding: id_bounds must be one of {', '.join(map(repr, ID_BOUNDS))}, "
                f"got {id_bounds!r}"
            )
        super().__init__(
            feature_config,
            optimizer,
            device=device,
            sharding=sharding,
            process_group=process_group,
            seed=seed,
            initialize_tpu_embedding=initialize_tpu_embedding,
            layout=layout,
            options={
                "batch_size": batch_size,
                "pipeline_execution_with_tensor_core": pipeline_execution_with_tensor_core,
                "id_bounds": id_bounds,
                "enqueue_depth": enqueue_depth,
            },
        )
        devices = self.placement.num_devices
        if batch_size % devices:
            raise ValueError(
                f"TPUEmbedding: batch_size {batch_size} is the size of all processes together and must "
                f"be divisible by their {devices} devices"
            )
        self.batch_size = batch_size
        self.local_batch_size = batch_size // self.placement.num_shards
        """Samples that this process enqueues."""
        self.id_bounds = id_bounds
        self.activations_by_table: list[list[Tensor]] = [[] for _ in self.resolved.tables]
        """Per table the activations that await gradients; the `params` of EmbeddingOptimizer's groups."""
        self._queue = StepQueue(enqueue_depth)
        if pipeline_execution_with_tensor_core and not self.on_accelerator:
            raise ValueError(
                "TPUEmbedding: pipeline_execution_with_tensor_core=True needs an XLA device, got "
                f"{self.device}"
            )
        self._pipeline = Pipeline() if pipeline_execution_with_tensor_core else None
        self._shares = False
        self._steps = 0
        self._warned = set()
        self._clipped = {}
        self._shapes = OutputShapes(self.resolved, self.local_batch_size)
        self._samples = SampleCount(self.resolved, batch_size, self.placement.num_shards)

    @outside_graph
    def build(
        self, per_replica_input_shapes: Any = None, per_replica_batch_size: int | None = None
    ) -> None:
        """Create and fill the tables on the device; the first `enqueue` does it if you do not.

        Args:
            per_replica_input_shapes: None, the batch size, or nested like feature_config: the shape of
                each input. Its last size (ids per bag) may be None; it is dropped.
            per_replica_batch_size: TF's older name for the batch size alone.

        Raises:
            ValueError: a shape is not known or at odds with the configuration, or both are given.
        """
        per_replica_input_shapes = shapes_or_size(per_replica_input_shapes, per_replica_batch_size)
        if per_replica_input_shapes is not None:
            self._shapes.give(per_replica_input_shapes)
        if self.on_accelerator:
            self._build_engine()

    @outside_graph
    def enqueue(
        self, features: Any, weights: Any = None, *, training: bool = True, name: str | None = None
    ) -> None:
        """Check a batch, deduplicate its ids on the host, and send it to the device.

        Args:
            features: nested like feature_config; each leaf a host tensor of ids: dense `[B]` or
                `[B, …, 1]`, sparse COO `[B, …, width]`, `Ragged`, or jagged `[B, *]`; or TorchRec's
                KeyedJaggedTensor in place of a dict, its JaggedTensor in place of a leaf, with weights.
            weights: None, or nested like feature_config; each leaf None (all 1) or the kind of its
                feature with floating-point values that do not require grad.
            training: whether `apply_gradients` will follow. If not, the batch may have any number of
                samples: it is filled up to a multiple of the batch size, and its activations are cut.
            name: batches of different names have queues of their own; give the same name to `dequeue`
                and `apply_gradients`.

        Raises:
            TypeError, ValueError: the input is wrong; tables and queue are as before.
            RuntimeError: `enqueue_depth` batches already wait, or the device is the CPU.
        """
        self._require_accelerator("enqueue")
        self._queue.check_room(name)
        self._queue.push(name, self.prepare(features, weights, training))

    def prepare(
        self, features: Any, weights: Any, training: bool, batcher: Batcher | None = None
    ) -> Queued:
        """The first half of `enqueue`: check a batch and send it, without its place in the queue.

        Args:
            batcher: None for the one that `enqueue` uses; a thread beside it needs its own.
        """
        refuse_transforms()
        metrics = self._metrics
        if metrics is None:
            return self._prepare(features, weights, training, batcher)[0]
        with metrics.preparing():
            queued, parsed = self._prepare(features, weights, training, batcher)
            if training:
                metrics.observe(parsed, queued.sent)
        return queued

    def _prepare(
        self, features: Any, weights: Any, training: bool, batcher: Batcher | None
    ) -> tuple[Queued, list[Bags]]:
        bags: list[Bags] | Exception
        samples = None
        try:
            bags = self._parse(features, weights)
            samples = self._samples.of(bags, self._shapes.explicit, training)
            self._shapes.check(bags, samples.follows)
        except Exception as error:
            if self.placement.num_shards == 1:
                raise
            bags = error  # the other processes must come to know
        sent = self.engine.send(bags, training, batcher, samples)
        assert isinstance(bags, list)
        assert samples is not None
        self._shapes.settle(bags, samples.follows)
        return Queued(sent, training), bags

    def enqueue_prepared(self, batch: Queued, following: Queued | None) -> None:
        """The second half of `enqueue`, for a batch that `prepare` gave.

        Args:
            following: the next one, if it is known: pipelined execution reads it ahead.
        """
        self._queue.check_room(None)
        self._queue.push(None, batch)
        if self._pipeline is not None:
            self._pipeline.next_batch = following

    def withdraw(self, batch: Queued | None) -> None:
        """Take back what `enqueue_prepared` was given, as far as it still waits."""
        self._queue.remove(batch)
        if self._pipeline is not None:
            self._pipeline.next_batch = None

    @property
    def pipelined(self) -> bool:
        """Whether `pipeline_execution_with_tensor_core` was chosen."""
        return self._pipeline is not None

    @outside_graph
    @timed("dequeue")
    def dequeue(self, name: str | None = None) -> Any:
        """The activations of the oldest enqueued batch, nested like feature_config.

        Returns:
            float32 device tensors `[B, D]`, or `[B, L, D]` for sequence features, or an output shape
            and D; for a training batch they are leaves that require grad. Of an inference batch with any
            number of samples, as many.

        Raises:
            RuntimeError: nothing was enqueued, the last training batch still awaits its gradients, or
                the device is the CPU.
        """
        self._require_accelerator("dequeue")
        queued = self._queue.next(name)
        if not queued.training:
            self.flush()
            _, activations = self.engine.look_up(queued.sent, keep_records=False)
            activations = self.engine.cut(queued.sent, activations)
            self._queue.looked_up(name, None)
        else:
            mark("step", self._steps)
            self._steps += 1
            if self._pipeline is None:
                looked_up, activations = self.engine.look_up(queued.sent)
            else:
                behind = self._queue.after(queued)
                looked_up, activations = self._pipeline.step(self.engine, name, queued, behind)
            activations = [make_leaf(each) for each in activations]
            runtime.allow_backward(self.device)
            self._queue.looked_up(name, Awaiting(looked_up, activations, self._frozen()))
            self._step_changed(name)
        return pack_like(self.resolved.structure, activations)

    @outside_graph
    @timed("apply")
    def apply_gradients(
        self,
        gradients: Any = None,
        name: str | None = None,
        *,
        learning_rates: Sequence[float] | None = None,
    ) -> None:
        """Update the rows looked up by the training batch dequeued last, and by those of which
        `accumulate_gradients` has kept the gradients before it, one optimizer step per id.

        Gradients of all places of an id are summed, over samples and features of its table, never
        averaged. A feature without a gradient counts as zero: its rows still take a step (which moves
        them under Adam or weight decay), with one warning, as in TF.

        Args:
            gradients: of the loss with respect to the activations, nested like feature_config; None
                takes the `.grad` that backward left on them.
            name: as given to `enqueue`.
            learning_rates: one per table, in the order of first occurrence in feature_config; None
                reads those of the tables' optimizers.

        Raises:
            TypeError, ValueError: a gradient has the wrong nest, shape, dtype or device.
            RuntimeError: no training batch awaits gradients, backward has not run, or the device is
                the CPU. In every case the tables are as before.
        """
        self._require_accelerator("apply_gradients")
        failure: Exception | None = None
        rates, step = learning_rates or [], self._queue.step_of(name)
        try:
            step = self._queue.require_step(name, "apply_gradients")
            if gradients is not None:
                self._queue.require_awaiting(name, "apply_gradients")
            found = self._collect(step, gradients, "apply_gradients", warn=True)
            if learning_rates is None:
                rates = self.learning_rates()
            if len(rates) != len(self.resolved.tables):
                raise ValueError(
                    f"apply_gradients: learning_rates must have one rate for each of the "
                    f"{len(self.resolved.tables)} tables, got {len(rates)}"
                )
            rates = check_rates(self.resolved.tables, rates, self._frozen_in(step))
        except Exception as error:
            failure = error
        with calling("apply_gradients"):
            settings = {"the learning rates of the tables are": [*rates]}
            self._agree_on_step("apply_gradients", step, failure, settings)
            self._update(name, step, found, rates)
        if self._metrics is not None:
            self._metrics.step_done()

    @outside_graph
    def forward(self, features: Any, weights: Any = None) -> Any:
        """`enqueue` and `dequeue` in one; a training batch while `self.training`.

        On the CPU the plain differentiable lookup of `serving_embedding_lookup`.
        """
        if not self.on_accelerator:
            return serving_embedding_lookup(
                features,
                weights,
                self.embedding_tables,
                self.resolved.structure,
                id_bounds=self.id_bounds,
            )
        self._queue.check_empty(None)
        if self.training:
            self._queue.check_applied(None, "forward")
        self.enqueue(features, weights, training=self.training)
        return self.dequeue()

    @outside_graph
    def flush(self) -> None:
        """Apply the gradients that pipelined execution holds back, by any object; a collective call.

        `state_dict`, `load_state_dict`, checkpoints, the lookup of an inference batch and the end of an
        `EmbeddingLoader` do it themselves. Training batches that wait, or that the loader has ready, read
        their rows first: what they compute does not depend on when others look at the tables.
        """
        if self._engine is not None:
            held_updates.flush(self._engine)

    def _build_engine(self) -> Engine:
        engine = super()._build_engine()
        if self._pipeline is not None and not self._shares:
            held_updates.share(engine, self, self._pipeline, self._queue)
            self._shares = True
        return engine

    @outside_graph
    def discard(self, name: str | None = None) -> None:
        """Forget the batches of `name` that wait, the one that awaits gradients (to skip a step), and those
        accumulated."""
        self._queue.discard(name)
        self._step_changed(name)

    def learning_rates(self) -> list[float]:
        """The learning rate of each table now; a callable shared by several tables is called once.

        Raises:
            ValueError: a callable returned something that is not a finite number.
        """
        return current_rates(self.resolved.tables)

    def describe(self) -> str:
        """Tables, features and, once built, the layout on the device, as text for logs."""
        stacks = self._engine.store.stacks if self._engine is not None else None
        return describe(
            self.resolved,
            self._shapes.settled,
            self.local_batch_size,
            self.device,
            stacks,
            self.placement,
            self._exchange,
            {*self.frozen_tables},
        )

    def extra_repr(self) -> str:
        tables, features = len(self.resolved.tables), len(self.resolved.features)
        return (
            f"tables={tables}, features={features}, batch_size={self.batch_size}, "
            f"device={str(self.device)!r}"
        )

    @timed("parse")
    def _parse(self, features: Any, weights: Any) -> list[Bags]:
        explicit = self._shapes.explicit
        return parse_features(
            self.resolved,
            features,
            weights,
            None,
            self.id_bounds,
            explicit,
            constant_weights=True,
        )

    def _require_accelerator(self, call: str) -> None:
        if not self.on_accelerator:
            raise RuntimeError(
                f"{call}: this TPUEmbedding is on the CPU, where tables are plain parameters; call it "
                "directly (forward) for a lookup, or create it without device='cpu' to train"
            )

"""TPUEmbedding: the module a training script holds, and its documentation.

What the calls do is in `training/steps.py`, what is computed in `program/engine.py`.

Letters: B batch, V vocabulary, D dim, L max_sequence_length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import runtime
from .config.learning_rates import current_rates
from .config.nest import pack_like
from .distributed.placement import Strategy
from .kernels.choice import RowKernels
from .monitoring.describe import describe
from .optimizers import Optimizer
from .program.plain_lookup import look_up_on_host
from .runtime.modes import outside_graph
from .table_rows import TableRows
from .tf_forms import REQUIRED, require_size_and_optimizer, shapes_or_size
from .training.steps import Steps, check_options


class TPUEmbedding(TableRows):
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
        sharding: 'mod' or 'div': which rows go to which process (`distributed/placement.py`).
        process_group: a gloo group of the processes that share the tables; None for all that were started.
        pipeline_execution_with_tensor_core: True reads the rows of a step before the gradients of the step
            before are applied (a step sees the updates of all but the last one before it), so that reading
            and the dense model's work overlap; `flush` and all that looks at the tables apply the rest.
        id_bounds: what an id outside [0, V) does: 'raise', 'drop' (as if it were not there: a pooled
            feature ignores it, a dense or sequence feature gives zeros) or 'warn_and_drop'.
        seed: for start values; None draws one from torch's default generator.
        enqueue_depth: how many batches of one name may wait between enqueue and dequeue.
        initialize_tpu_embedding: False makes this a second object on the tables of another, equal one.
        layout: None for the layout that suits the device, or 'CPU' or 'TPU' to trace for another.
        row_kernels: 'on' (kernels write rows on a TPU), 'off' or 'auto' (off so far): docs/row_kernels.md.

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
        row_kernels: RowKernels = "auto",
    ) -> None:
        require_size_and_optimizer(batch_size, optimizer)
        check_options(batch_size, enqueue_depth, id_bounds)
        pipelined = pipeline_execution_with_tensor_core
        super().__init__(
            feature_config,
            optimizer,
            device=device,
            sharding=sharding,
            process_group=process_group,
            seed=seed,
            initialize_tpu_embedding=initialize_tpu_embedding,
            layout=layout,
            row_kernels=row_kernels,
            id_bounds=id_bounds,
            options={
                "batch_size": batch_size,
                "pipeline_execution_with_tensor_core": pipelined,
                "enqueue_depth": enqueue_depth,
            },
        )
        self._steps = Steps(
            self._tables, self._metrics, batch_size, id_bounds, enqueue_depth, pipelined
        )
        self.batch_size = batch_size
        self.local_batch_size = batch_size // self.placement.num_shards
        """Samples that this process enqueues."""

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
            self._steps.shapes.give(per_replica_input_shapes)
        if self.on_accelerator:
            self._tables.build()

    @outside_graph
    def enqueue(
        self, features: Any, weights: Any = None, *, training: bool = True, name: str | None = None
    ) -> None:
        """Check a batch, deduplicate its ids on the host, and send it to the device.

        Args:
            features: nested like feature_config; each leaf a host tensor of ids: dense `[B]` or
                `[B, …, 1]`, sparse COO `[B, …, width]`, `Ragged`, or jagged `[B, *]`; or one matrix
                `[B, F]` in place of a list of F features with an id a sample; or TorchRec's
                KeyedJaggedTensor in place of a dict, or of a list of features that are named as its
                keys are; its JaggedTensor in place of a leaf; both with weights.
            weights: None, or nested like feature_config; each leaf None (all 1) or the kind of its
                feature with floating-point values that do not require grad.
            training: True if `apply_gradients` will follow. If not, the batch may have any number of
                samples: it is filled up to a multiple of the batch size, and its activations are cut.
            name: batches of different names have queues of their own; give the same name to `dequeue`
                and `apply_gradients`.

        Raises:
            TypeError, ValueError: the input is wrong; tables and queue are as before.
            RuntimeError: `enqueue_depth` batches already wait, or the device is the CPU.
        """
        self._require_accelerator("enqueue")
        self._steps.enqueue(features, weights, training, name)

    @outside_graph
    def dequeue(self, name: str | None = None) -> Any:
        """The activations of the oldest enqueued batch, nested like feature_config.

        Args:
            name: as given to `enqueue`.

        Returns:
            Device tensors in the `output_dtype` of each feature, `[B, D]`, or `[B, L, D]` for sequence
            features, or an output shape and D; for a training batch they are leaves that require grad. Of
            an inference batch with any number of samples, as many.

        Raises:
            RuntimeError: nothing was enqueued, the last training batch still awaits its gradients, or
                the device is the CPU.
        """
        self._require_accelerator("dequeue")
        return pack_like(self.resolved.structure, self._steps.dequeue(name))

    @outside_graph
    def apply_gradients(
        self,
        gradients: Any = None,
        name: str | None = None,
        *,
        learning_rates: Sequence[float] | None = None,
    ) -> None:
        """Update the rows looked up by the training batch dequeued last, and by those of which
        `accumulate_gradients` has kept the gradients before it, one optimizer step per id.

        Gradients of all lookups of an id are summed, over samples and features of its table, never
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
        self._steps.apply(gradients, name, learning_rates)

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
        gradients of all its lookups are summed first, over samples, features, accumulated batches, devices
        and processes. (`torch.nn.utils.clip_grad_norm_` on activations measures each lookup by itself, and
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
        if not self.on_accelerator:
            raise RuntimeError(
                "clip_grad_norm_: this TPUEmbedding is on the CPU, where tables are plain parameters; use "
                "torch.nn.utils.clip_grad_norm_([*embedding.parameters(), *dense_parameters], max_norm)"
            )
        return self._steps.gradients.clip(max_norm, norm_type, dense_parameters, name)

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
            gradients: as for `apply_gradients`.
            name: as given to `enqueue`.

        Raises:
            TypeError, ValueError: a gradient has the wrong nest, shape, dtype or device.
            RuntimeError: no training batch awaits gradients, backward has not run, execution is
                pipelined, a table steps once per occurrence, or the device is the CPU.
        """
        if not self.on_accelerator:
            raise RuntimeError(
                "accumulate_gradients: this TPUEmbedding is on the CPU, where tables are plain parameters "
                "and backward accumulates their gradients by itself; leave the call out"
            )
        self._steps.accumulate(gradients, name)

    @outside_graph
    def forward(self, features: Any, weights: Any = None) -> Any:
        """`enqueue` and `dequeue` in one; a training batch while `self.training`.

        On the CPU the plain differentiable lookup of `serving_embedding_lookup`.

        Args:
            features: as for `enqueue`.
            weights: as for `enqueue`.

        Returns:
            As `dequeue` does.

        Raises:
            TypeError, ValueError: the input is wrong; tables and queue are as before.
            RuntimeError: batches wait in the queue, or the last training batch awaits its gradients.
        """
        if not self.on_accelerator:
            tables, find = self.embedding_tables, self._tables.find_on_host
            return look_up_on_host(
                features, weights, tables, self.resolved.structure, self.id_bounds, find
            )
        self._steps.queue.check_empty(None)
        if self.training:
            self._steps.queue.check_applied(None, "forward")
        self.enqueue(features, weights, training=self.training)
        return self.dequeue()

    @outside_graph
    def discard(self, name: str | None = None) -> None:
        """Forget the batches that wait, the one that awaits gradients (to skip a step), and those
        accumulated; no table has changed.

        Args:
            name: as given to `enqueue`.
        """
        self._steps.discard(name)

    def learning_rates(self) -> list[float]:
        """The learning rate of each table now; a callable shared by several tables is called once.

        Raises:
            ValueError: a callable returned something that is not a finite number.
        """
        return current_rates(self.resolved.tables)

    def describe(self) -> str:
        """Tables, features and, once built, the layout on the device, as text for logs."""
        built = self._tables.built
        return describe(
            self.resolved,
            self._steps.shapes.known,
            self.local_batch_size,
            self.device,
            built.store.stacks if built is not None else None,
            self.placement,
            self._tables.exchange,
            {*self.frozen_tables},
        )

    def extra_repr(self) -> str:
        tables, features = len(self.resolved.tables), len(self.resolved.features)
        return f"tables={tables}, features={features}, batch_size={self.batch_size}, device='{self.device}'"

    def _require_accelerator(self, call: str) -> None:
        if not self.on_accelerator:
            raise RuntimeError(
                f"{call}: this TPUEmbedding is on the CPU, where tables are plain parameters; call it "
                "directly (forward) for a lookup, or create it without device='cpu' to train"
            )

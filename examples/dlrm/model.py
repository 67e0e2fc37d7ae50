"""A DLRM on the XLA device: dense layers in torch.nn, tables in `TPUEmbedding`, and its steps.

A DLRM ("Deep Learning Recommendation Model", Naumov et al. 2019) predicts a click from dense
numbers and categorical ids:

    dense [B, 13] ──> bottom MLP ──> x [B, D] ────┬──────────────────────────┐
                                                  ├──> all dot products ──> concat ──> top MLP
    ids ──> embedding tables ──> F times [B, D] ──┘    [B, F(F+1)/2]                      │
                                                                                     logits [B]

`Trainer.train_step` and `Trainer.evaluate` are what this example is about.

Shape letters: B batch, F categorical features, D embedding width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from common.background import BackgroundBatches, TrainingOrder
from common.preemption import require_same, settle
from common.processes import own_share
from dlrm.data import DENSE, Batch, ClickLog, Column
from dlrm.report import auc, log_loss
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import torch_tpu_embedding as tte


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths with ReLUs between them (none after the last)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DotInteraction(nn.Module):
    """Dot products of every pair of distinct vectors: `[B, n, D]` to `[B, n(n-1)/2]`.

    >>> DotInteraction(3)(torch.tensor([[[1.0, 0.0], [2.0, 5.0], [3.0, 1.0]]]))
    tensor([[ 2.,  3., 11.]])
    """

    pairs: torch.Tensor

    def __init__(self, vectors: int) -> None:
        super().__init__()
        row, column = torch.tril_indices(vectors, vectors, offset=-1)
        # The positions of the lower triangle in the flattened [n, n] products never change, so they
        # are a buffer and XLA sees one gather. A boolean mask would have a data-dependent size,
        # which XLA cannot compile. int32, because TPUs have no fast 64-bit integers.
        positions = (row * vectors + column).to(torch.int32)
        self.register_buffer("pairs", positions, persistent=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Multiply all pairs as one batched matrix product and keep each pair once."""
        products = torch.bmm(vectors, vectors.transpose(1, 2))  # [B, n, n]
        return products.flatten(1).index_select(1, self.pairs)


class DLRM(nn.Module):
    """Bottom MLP, dot interaction, top MLP; the embedding activations come from outside.

    Args:
        dense_features: how many dense numbers a sample has.
        categorical_features: how many embedding activations `forward` gets (F).
        dim: their width (D), also the bottom MLP's output width.
        bottom: widths of the bottom MLP's hidden layers.
        top: widths of the top MLP's hidden layers.
    """

    def __init__(
        self,
        dense_features: int,
        categorical_features: int,
        dim: int,
        bottom: Sequence[int] = (64,),
        top: Sequence[int] = (128, 64),
    ) -> None:
        super().__init__()
        vectors = 1 + categorical_features  # the bottom MLP's output takes part in the interaction
        self.bottom = mlp([dense_features, *bottom, dim])
        self.interaction = DotInteraction(vectors)
        self.top = mlp([dim + vectors * (vectors - 1) // 2, *top, 1])

    def forward(self, dense: torch.Tensor, activations: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits `[B]` from dense numbers `[B, 13]` and F activations `[B, D]`."""
        x = self.bottom(dense)
        pairs = self.interaction(torch.stack([x, *activations], dim=1))
        return self.top(torch.cat([x, pairs], dim=1)).squeeze(1)


class DenseOnly(nn.Module):
    """The baseline: the same two MLPs without any embedding; it cannot see the ids."""

    def __init__(
        self,
        dense_features: int,
        dim: int,
        bottom: Sequence[int] = (64,),
        top: Sequence[int] = (128, 64),
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            mlp([dense_features, *bottom, dim]), nn.ReLU(), mlp([dim, *top, 1])
        )

    def forward(self, dense: torch.Tensor) -> torch.Tensor:
        """Logits `[B]` from dense numbers `[B, 13]`."""
        return self.layers(dense).squeeze(1)


# Per optimizer: the tables' learning rate and the dense layers'. A row of a table sees few of a
# batch's B samples, so its gradient of the mean loss is small, and plain SGD needs a large rate.
LEARNING_RATES = {"sgd": (100.0, 0.3), "adagrad": (0.1, 0.01), "adam": (0.002, 0.001)}


@dataclass(frozen=True)
class Settings:
    """What decides, with the data, how a training run goes."""

    batch_size: int
    dim: int
    optimizer: str  # of LEARNING_RATES
    lr: float  # of the tables
    dense_lr: float
    seed: int
    baseline: bool  # train the dense-only model on the same batches
    pipelined: bool  # read the rows of the next step while the dense layers work on this one


class Trainer:
    """The models, their optimizers and the batches to train on."""

    def __init__(self, log: ClickLog, settings: Settings) -> None:
        self.log, self.settings, self.step = log, settings, 0
        self.order = TrainingOrder(log.train_rows, settings.batch_size, settings.seed)
        self.history: dict[str, list[Any]] = {"loss": [], "evaluations": []}
        torch.manual_seed(settings.seed)

        # One table per categorical column. The tables live on the device and are no parameters of
        # the model: a gradient [V, D] never exists, only the rows looked up are updated.
        self.embedding = tte.TPUEmbedding(
            {column.name: feature(column, settings.dim) for column in log.columns},
            batch_size=settings.batch_size,
            optimizer=table_optimizer(settings.optimizer, settings.lr),
            seed=settings.seed,
            pipeline_execution_with_tensor_core=settings.pipelined,
        )
        self.embedding_optimizer = tte.EmbeddingOptimizer(self.embedding)

        # The dense layers are ordinary torch. `.to` an XLA device replaces the parameters, so the
        # optimizer is built after it.
        self.device = tte.runtime.device()
        self.dense_models = nn.ModuleDict(
            {"dlrm": DLRM(len(DENSE), len(log.columns), settings.dim)}
        )
        if settings.baseline:
            self.dense_models["dense_only"] = DenseOnly(len(DENSE), settings.dim)
        self.dense_models.to(self.device)
        self.dense_optimizer = dense_optimizer(
            settings.optimizer, self.dense_models.parameters(), settings.dense_lr
        )
        self.batches = BackgroundBatches(
            self.order,
            self.cut,
            self.embedding,
            features=lambda batch: batch.features,
            weights=lambda batch: batch.weights,
            numbers=lambda batch: batch.numbers,
        )
        # Make the tables and Adagrad's first state now. Else the first step makes them, which is
        # another program than the second step, and the compiler runs twice.
        tte.runtime.sync()

    def cut(self, rows: np.ndarray) -> Batch:
        """This process's part of the batch of these rows, of the same size for short batches too."""
        return self.log.batch(*own_share(rows, self.settings.batch_size))

    def forward(
        self, numbers: torch.Tensor, activations: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Labels and loss weights `[B, 1]` and logits `[B, models]` (DLRM, baseline) on the device.

        Args:
            numbers: `Batch.numbers`, on the device.
            activations: `[B, D]` by the name of the column.
        """
        labels, weights, dense = numbers[:, :1], numbers[:, 1:2], numbers[:, 2:]
        logits = [self.dense_models["dlrm"](dense, [*activations.values()])]
        if "dense_only" in self.dense_models:
            logits.append(self.dense_models["dense_only"](dense))
        return labels, weights, torch.stack(logits, dim=1)

    def train_step(self, numbers: torch.Tensor) -> torch.Tensor:
        """One step on the batch that the thread has sent; returns the DLRM's loss, still on the device.

        This is a function so that activations and gradients are gone before `sync`: whatever is
        still referenced there becomes an output that XLA must keep.
        """
        labels, weights, logits = self.forward(numbers, self.embedding.dequeue())
        labels, weights = labels.expand_as(logits), weights.expand_as(logits)
        losses = binary_cross_entropy_with_logits(logits, labels, weights, reduction="none")
        losses = losses.mean(dim=0)  # one a model; they share no parameter, so gradients stay apart
        # Gradients are summed over the processes, so each process gives its share of the mean.
        (losses.sum() / tte.distributed.num_replicas()).backward()
        tte.distributed.sum_gradients(self.dense_models.parameters())
        self.dense_optimizer.step()
        self.embedding_optimizer.step()  # updates the rows of this batch, wherever they are
        self.dense_optimizer.zero_grad(set_to_none=True)
        return losses[0].detach()

    def advance(self) -> torch.Tensor:
        """Train on the next batch; the loss is a device scalar, computed when it is fetched."""
        loss = self.train_step(next(self.batches))
        tte.runtime.sync()  # ends the step: runs it as one program, compiled the first time
        self.step += 1
        return loss

    def predict(self, batch: Batch) -> torch.Tensor:
        """Logits `[B, models]` on the device, of a batch that is not trained on."""
        numbers = self.embedding.to_device(batch.numbers)
        return self.forward(numbers, self.embedding(batch.features, batch.weights))[2]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Log loss and AUC on the held-out rows, without changing anything."""
        settle(self.embedding)
        self.embedding.eval()  # lookups without a gradient
        outputs = []
        held_out = np.arange(self.log.train_rows, len(self.log))
        for start in range(0, len(held_out), self.settings.batch_size):
            batch = self.cut(held_out[start : start + self.settings.batch_size])
            outputs.append(self.predict(batch))
            tte.runtime.sync()
        gathered = [tte.distributed.gather(self.embedding.to_host(each)) for each in outputs]
        # What the last batch was filled up with is at its end.
        logits = torch.cat(gathered)[: len(held_out)].numpy()
        labels = self.log.labels[held_out]
        scores = {"log_loss": log_loss(labels, logits[:, 0]), "auc": auc(labels, logits[:, 0])}
        if "dense_only" in self.dense_models:
            scores["dense_only_auc"] = auc(labels, logits[:, 1])
        if self.log.oracle is not None:
            scores["best_possible_auc"] = auc(labels, self.log.oracle[held_out])
        return scores

    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to continue the other."""
        tables = {column.name: column.vocabulary for column in self.log.columns}
        return {**asdict(self.settings), "training rows": self.log.train_rows, "tables": tables}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides the tables."""
        return {
            "settings": self.identity(),
            "step": self.step,
            "batches": self.batches.state_dict(),
            "history": self.history,
            "dense_models": self.dense_models.state_dict(),
            "dense_optimizer": self.dense_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: settings or data are not those of that run, which could not continue.
        """
        require_same(state["settings"], self.identity())
        self.step, self.history = state["step"], state["history"]
        self.batches.load_state_dict(state["batches"])
        self.dense_models.load_state_dict(state["dense_models"])
        self.dense_optimizer.load_state_dict(state["dense_optimizer"])
        tte.runtime.sync()


def feature(column: Column, dim: int) -> tte.FeatureConfig:
    """A feature with a table of its own for one categorical column."""
    table = tte.TableConfig(
        column.vocabulary,
        dim,
        initializer=small_normal,
        combiner=column.combiner,
        name=column.name,
    )
    return tte.FeatureConfig(table)


def small_normal(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    partition_shape: tuple[int, ...] | None = None,
    partition_offset: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """Start values nearer to 0 than the default: rare ids add less noise to the interactions.

    With the last two parameters it is asked for a block of rows at a time, so that no process ever
    makes a whole table.
    """
    return torch.randn(partition_shape or shape, dtype=dtype) * 0.1


def table_optimizer(name: str, lr: float) -> tte.optimizers.Optimizer:
    """The optimizer of the embedding rows, in TPUEmbedding's formulas."""
    if name == "sgd":
        return tte.SGD(lr)
    if name == "adagrad":
        # One id's gradient of the mean loss is near 1e-4: TF's default of 0.1 would drown it.
        return tte.Adagrad(lr, initial_accumulator_value=1e-7)
    return tte.Adam(lr)


def dense_optimizer(
    name: str, parameters: Iterable[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """The optimizer of the dense layers."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr)
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr)
    # capturable: the step count stays on the device. As a host number it would be a constant of the
    # program, and every step another program to compile.
    return torch.optim.Adam(parameters, lr, capturable=True)

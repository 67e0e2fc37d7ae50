"""A DLRM on the XLA device: dense layers in torch.nn, tables in `TPUEmbedding`, and its steps.

A DLRM ("Deep Learning Recommendation Model", Naumov et al. 2019) predicts a click from dense
numbers and categorical ids:

    dense [B, 13] ──> bottom MLP ──> x [B, D] ────┬──────────────────────────┐
                                                  ├──> all dot products ──> concat ──> top MLP
    ids ──> embedding tables ──> F times [B, D] ──┘    [B, F(F+1)/2]                      │
                                                                                     logits [B]

`Trainer` is the heart of this example: its `__init__` makes tables and layers, `train_step` trains them,
and `evaluate` scores them. The loop around it, and all that does not depend on the model, is in
../common/trainer.py.

Shape letters: B batch, F categorical features, D embedding width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from common.background import BackgroundBatches, Batch, TrainingOrder
from common.processes import own_share
from common.tables import TABLES
from common.trainer import BaseTrainer, Stateful
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import torch_tpu_embedding as tte
from dlrm.data import DENSE, ClickLog, Column
from dlrm.report import auc_or_none, log_loss


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

    pairs: Tensor

    def __init__(self, vectors: int) -> None:
        super().__init__()
        row, column = torch.tril_indices(vectors, vectors, offset=-1)
        # The positions of the lower triangle in the flattened [n, n] products never change, so they
        # are a buffer and XLA sees one gather. A boolean mask would have a data-dependent size,
        # which XLA cannot compile. int32, because TPUs have no fast 64-bit integers.
        positions = (row * vectors + column).to(torch.int32)
        self.register_buffer("pairs", positions, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
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

    def forward(self, dense: Tensor, activations: Sequence[Tensor]) -> Tensor:
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

    def forward(self, dense: Tensor) -> Tensor:
        """Logits `[B]` from dense numbers `[B, 13]`."""
        return self.layers(dense).squeeze(1)


# Per optimizer: the tables' learning rate and the dense layers'. A row of a table sees few of a
# batch's B samples, so its gradient of the mean loss is small, and plain SGD needs a large rate.
LEARNING_RATES = {"sgd": (100.0, 0.3), "adagrad": (0.1, 0.01), "adam": (0.002, 0.001)}


@dataclass(frozen=True)
class Settings:
    """The options that, with the data, decide how a training run goes."""

    batch_size: int
    dim: int
    optimizer: str  # of LEARNING_RATES
    lr: float  # of the tables
    dense_lr: float
    seed: int
    baseline: bool  # train the dense-only model on the same batches
    pipelined: bool  # read the rows of the next step while the dense layers work on this one
    tables: str = "float32"  # of TABLES


class Trainer(BaseTrainer):
    """The DLRM with its tables, and beside it the dense-only model, trained on the same batches."""

    settings: Settings

    def __init__(self, log: ClickLog, settings: Settings) -> None:
        super().__init__(settings)
        self.log = log
        self.order = TrainingOrder(log.train_rows, settings.batch_size, settings.seed)
        torch.manual_seed(settings.seed)

        # One table per categorical column. The tables live on the device and are no parameters of
        # the model: a gradient [V, D] never exists, only the rows looked up are updated.
        self.embedding = tte.TPUEmbedding(
            {column.name: feature(column, settings) for column in log.columns},
            batch_size=settings.batch_size,
            optimizer=table_optimizer(settings.optimizer, settings.lr),
            seed=settings.seed,
            pipeline_execution_with_tensor_core=settings.pipelined,
        )
        self.embedding_optimizer = tte.EmbeddingOptimizer(self.embedding)

        # The dense layers are ordinary torch. `.to` an XLA device replaces the parameters, so the
        # optimizer is built after it.
        self.dense_models = nn.ModuleDict(
            {"dlrm": DLRM(len(DENSE), len(log.columns), settings.dim)}
        )
        if settings.baseline:
            self.dense_models["dense_only"] = DenseOnly(len(DENSE), settings.dim)
        self.dense_models.to(tte.runtime.device())
        self.dense_optimizer = dense_optimizer(
            settings.optimizer, self.dense_models.parameters(), settings.dense_lr
        )
        self.batches = BackgroundBatches(self.order, self.cut, self.embedding)
        # Make the tables and Adagrad's first state now. Else the first step makes them, which is
        # another program than the second step, and the compiler runs twice.
        tte.runtime.sync()

    def cut(self, rows: np.ndarray) -> Batch:
        return self.log.batch(*own_share(rows, self.settings.batch_size))

    def forward(
        self, numbers: Tensor, activations: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Labels and loss weights `[B, 1]` and logits `[B, models]` (DLRM, baseline) on the device.

        Args:
            numbers: label, weight in the loss and dense numbers of each sample, `[B, 2 + 13]`.
            activations: `[B, D]` by the name of the column.
        """
        labels, weights, dense = numbers[:, :1], numbers[:, 1:2], numbers[:, 2:]
        logits = [self.dense_models["dlrm"](dense, [*activations.values()])]
        if "dense_only" in self.dense_models:
            logits.append(self.dense_models["dense_only"](dense))
        return labels, weights, torch.stack(logits, dim=1)

    def train_step(self, numbers: Tensor) -> Tensor:
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

    def predict(self, batch: Batch) -> Tensor:
        """Logits `[B, models]` on the device."""
        numbers = self.embedding.to_device(batch.numbers)
        return self.forward(numbers, self.embedding(batch.features, batch.weights))[2]

    def evaluate(self) -> dict[str, Any]:
        """Log loss and AUC on the held-out rows; an AUC is None where all labels are equal."""
        held_out = np.arange(self.log.train_rows, len(self.log))
        logits, labels = self.predict_rows(held_out).numpy(), self.log.labels[held_out]
        scores = {
            "log_loss": log_loss(labels, logits[:, 0]),
            "auc": auc_or_none(labels, logits[:, 0]),
        }
        if "dense_only" in self.dense_models:
            scores["dense_only_auc"] = auc_or_none(labels, logits[:, 1])
        if self.log.oracle is not None:
            scores["best_possible_auc"] = auc_or_none(labels, self.log.oracle[held_out])
        return scores

    def describe(self, scores: dict[str, Any], new: bool) -> str:
        line = f"step {self.step:>7,}   held-out log loss {scores['log_loss']:.4f}   "
        if scores["auc"] is None:
            return f"{line}AUC not defined: all held-out labels are equal"
        line += f"AUC {scores['auc']:.4f}"
        if "dense_only_auc" in scores:
            line += f"   dense-only {scores['dense_only_auc']:.4f}"
        return line

    def parts(self) -> dict[str, Stateful]:
        return {"dense_models": self.dense_models, "dense_optimizer": self.dense_optimizer}

    def data_identity(self) -> dict[str, Any]:
        tables = {column.name: column.vocabulary for column in self.log.columns}
        return {"training rows": self.log.train_rows, "tables": tables}


def feature(column: Column, settings: Settings) -> tte.FeatureConfig:
    """A feature with a table of its own for one categorical column."""
    table = tte.TableConfig(
        column.vocabulary,
        settings.dim,
        initializer=small_normal,
        combiner=column.combiner,
        name=column.name,
        **TABLES[settings.tables],
    )
    return tte.FeatureConfig(table)


def small_normal(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    partition_shape: tuple[int, ...] | None = None,
    partition_offset: tuple[int, ...] | None = None,
) -> Tensor:
    """Start values nearer to 0 than the default: rare ids add less noise to the interactions.

    An initializer with the last two parameters is called for one block of rows at a time, so that no
    process ever makes a whole table.
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
    # These trace several times as fast as those of torch.optim, and a new rate is no new program.
    if name == "sgd":
        return tte.dense_optimizers.SGD(parameters, lr)
    if name == "adagrad":
        return tte.dense_optimizers.Adagrad(parameters, lr)
    return tte.dense_optimizers.Adam(parameters, lr)

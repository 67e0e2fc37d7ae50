"""A training step of scripts/bench_host.py: tables of a workload, the DLRM of the examples, two optimizers.

Letters: B batch, D dim, F features, L sequence length.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from dlrm.model import DLRM
from support.workloads import Workload
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime.phases import phase

DENSE = 13
"""Dense numbers of a sample, as in Criteo's click logs."""
BATCHES = 16
"""The number of different batches, which return."""
VERIFY = 2
OPTIMIZERS = ("Adagrad", "Adam")
TABLE_RATE, DENSE_RATE = 0.01, 0.01


class Model(nn.Module):
    """A DLRM of activations of any dim: narrow ones get a linear layer, sequences are summed.

    Args:
        dims: D of each feature's activations.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self._dims, dim = dims, max(dims)
        narrow = sorted({each for each in dims if each < dim})
        self.widened = nn.ModuleDict({str(each): nn.Linear(each, dim) for each in narrow})
        self.dlrm = DLRM(DENSE, len(dims), dim)

    def forward(self, dense: Tensor, activations: Sequence[Tensor]) -> Tensor:
        """Logits `[B]` of dense numbers `[B, 13]` and F activations `[B, D]` or `[B, L, D]`."""
        found = [each.sum(1) if each.dim() == 3 else each for each in activations]
        for width, layer in self.widened.items():
            places = [at for at, dim in enumerate(self._dims) if str(dim) == width]
            wide = layer(torch.stack([found[at] for at in places], dim=1))
            for at, each in zip(places, wide.unbind(1), strict=True):
                found[at] = each
        logits: Tensor = self.dlrm(dense, found)
        return logits


class Case:
    """One side of the comparison, with tables and layers of its own; its steps are equal to the other's.

    Args:
        optimizer: of OPTIMIZERS, for tables and layers.
        replayed: True if steps are replayed.
    """

    def __init__(self, work: Workload, optimizer: str, replayed: bool) -> None:
        self.work = work
        rule = getattr(tte, optimizer)(TABLE_RATE)
        self.embedding = tte.TPUEmbedding(work.features(), work.batch_size, rule, seed=0)
        self.embedding.build()
        self.embedding_optimizer = tte.EmbeddingOptimizer(self.embedding)
        torch.manual_seed(0)
        self.model = Model([work.dims[each.table] for each in work.inputs])
        self.model.to(self.embedding.device)
        self.dense_optimizer: torch.optim.Optimizer = getattr(tte.dense_optimizers, optimizer)(
            self.model.parameters(), DENSE_RATE
        )
        # Labels and dense numbers; a training loop sends them with the ids, which is not measured here.
        self.numbers = self.embedding.to_device(torch.rand(work.batch_size, 1 + DENSE))
        draw = work.batches(seed=1)
        self.batches = [draw() for _ in range(BATCHES)]
        self._next = itertools.cycle(self.batches).__next__
        self.replay = (
            tte.replay(self.train_step, self.embedding, verify=VERIFY) if replayed else None
        )
        tte.runtime.sync(wait=True)

    def enqueue(self) -> None:
        """Check, deduplicate and send the next batch."""
        self.embedding.enqueue(self._next())

    def train_step(self, numbers: Tensor) -> Tensor:
        """A step as a user writes it, its parts named as phases; gives the loss."""
        activations = self.embedding.dequeue()
        with phase("model"):
            logits = self.model(numbers[:, 1:], activations)
            loss = binary_cross_entropy_with_logits(logits, numbers[:, 0])
        with phase("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with phase("dense optimizer"):
            self.dense_optimizer.step()
        with phase("apply"):
            self.embedding_optimizer.step()
        with phase("dense optimizer"):
            self.dense_optimizer.zero_grad()
        return loss.detach()

    def step(self) -> bool:
        """Take and end a step on the batch that waits; True if it was replayed."""
        if self.replay is None:
            self.train_step(self.numbers)
            tte.runtime.sync()
            return False
        before = self.replay.replayed
        self.replay(self.numbers)
        return self.replay.replayed > before

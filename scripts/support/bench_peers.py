"""The sides of scripts/bench.py: one training step of the same tables, done by several libraries.

Every side takes the same host ids and writes out all activations; fixed gradients of the activations stand
for a model; then its tables are updated. Tables begin as zeros, accumulators of Adagrad as 0.1; ε is as
good as none; Adam is the one with bias correction that steps only the rows looked up.

Letters: B batch, D dim, F features, H ids of a sample, L sequence length, N ids, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from support.peers.side import (
    ADAM_EPSILON,
    BETA_1,
    BETA_2,
    EPSILON,
    RATE,
    START,
    Lap,
    Side,
    Unavailable,
    gradients_of,
)  # fmt: skip
from support.workloads import Input, Workload
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import runtime


class Ours(Side):
    """torch_tpu_embedding on the XLA device, which has threads of its own."""

    threads = 1

    def __init__(self, work: Workload, optimizer: str) -> None:
        super().__init__(work, optimizer)
        made: dict[str, Callable[[], Any]] = {
            "SGD": lambda: tte.SGD(RATE),
            "Adagrad": lambda: tte.Adagrad(RATE, initial_accumulator_value=START),
            "RowWiseAdagrad": lambda: tte.RowWiseAdagrad(RATE, initial_accumulator_value=START),
            "Adam": lambda: tte.Adam(self._rate, epsilon=ADAM_EPSILON, sum_inside_sqrt=False),
        }
        self._steps = 0
        self.embedding = tte.TPUEmbedding(work.features(), work.batch_size, made[optimizer]())
        self.embedding.build()
        self._gradients = [self.embedding.to_device(each) for each in gradients_of(work)]
        runtime.sync(wait=True)

    def _rate(self) -> float:
        self._steps += 1
        return RATE * math.sqrt(1 - BETA_2**self._steps) / (1 - BETA_1**self._steps)

    def step(self, batch: list[object], lap: Lap) -> None:
        self.embedding.enqueue(batch)
        lap("host")
        activations = self.embedding.dequeue()
        self.embedding.apply_gradients(self._gradients)
        lap("trace")
        runtime.sync(wait=self.waits)
        del activations  # a tensor that lives at the end of a step is written out
        lap("run")

    def rows(self, table: int, count: int) -> Tensor:
        return self.embedding.shard.read_rows(table, 0, count)["weight"]


class InFlight(Ours):
    """`Ours` without a wait after each step, as a training loop runs."""

    waits = False

    def finish(self) -> None:
        runtime.sync(wait=True)


class Replayed(InFlight):
    """`InFlight`, its steps run again from their compiled program (`tte.replay`).

    The activations are returned by the step, so that they are written out as for the others.
    """

    def __init__(self, work: Workload, optimizer: str) -> None:
        super().__init__(work, optimizer)
        self._step = tte.replay(self._take, self.embedding, verify=2)

    def _take(self, gradients: list[Tensor]) -> list[Tensor]:
        activations: list[Tensor] = self.embedding.dequeue()
        self.embedding.apply_gradients(gradients)
        return [each.detach() for each in activations]

    def step(self, batch: list[object], lap: Lap) -> None:
        self.embedding.enqueue(batch)
        lap("host")
        self._step(self._gradients)
        lap("replay")


class OneFeature(Ours):
    """`Ours` with the first feature alone, to see the cost of the others."""

    memory_factor = 0.1

    def __init__(self, work: Workload, optimizer: str) -> None:
        super().__init__(work.first_feature(), optimizer)

    def step(self, batch: list[object], lap: Lap) -> None:
        super().step(batch[:1], lap)


class TorchSparse(Side):
    """The functions of `nn.Embedding` and `nn.EmbeddingBag` with sparse=True, and torch's optimizers."""

    def __init__(self, work: Workload, optimizer: str) -> None:
        super().__init__(work, optimizer)
        if optimizer == "RowWiseAdagrad":
            raise Unavailable("torch has no row-wise Adagrad")
        self._tables = _parameters(work, torch.device("cpu"))
        self._optimizer = _torch_optimizer(optimizer, self._tables, sparse=True)
        self._gradients = gradients_of(work)

    def step(self, batch: list[object], lap: Lap) -> None:
        found = []
        for each, value in zip(self.work.inputs, batch, strict=True):
            table = self._tables[each.table]
            if isinstance(value, Tensor):
                found.append(F.embedding(value, table, sparse=True))
            elif each.sequence:
                missing = self.work.rows[each.table]
                ids = _padded(value, each, missing)
                found.append(F.embedding(ids, table, padding_idx=missing, sparse=True))
            else:
                assert isinstance(value, tte.Ragged)
                found.append(
                    F.embedding_bag(
                        value.values, table, value.row_splits, mode="sum", sparse=True,
                        include_last_offset=True,
                    )
                )  # fmt: skip
        lap("forward")
        torch.autograd.backward(found, self._gradients)
        lap("backward")
        self._optimizer.step()
        self._optimizer.zero_grad()
        lap("optimizer")

    def rows(self, table: int, count: int) -> Tensor:
        return self._tables[table].detach()[:count].clone()


class DenseXla(Side):
    """`nn.Embedding` and torch's dense optimizers on the XLA device: every row moves at every step."""

    threads = 1
    slow = True
    memory_factor = 3.0

    def __init__(self, work: Workload, optimizer: str) -> None:
        super().__init__(work, optimizer)
        if optimizer == "RowWiseAdagrad":
            raise Unavailable("torch has no row-wise Adagrad")
        if optimizer == "Adam":
            self.differs = "dense Adam moves every row"
        self._device = runtime.device()
        self._tables = _parameters(work, self._device)
        self._optimizer = _torch_optimizer(optimizer, self._tables, sparse=False)
        self._gradients = [each.to(self._device) for each in gradients_of(work)]
        runtime.sync(wait=True)

    def step(self, batch: list[object], lap: Lap) -> None:
        ids = []
        for each, value in zip(self.work.inputs, batch, strict=True):
            missing = self.work.rows[each.table]
            host = value if isinstance(value, Tensor) else _padded(value, each, missing)
            ids.append(host.to(self._device))
        lap("host")
        found = []
        for each, value in zip(self.work.inputs, ids, strict=True):
            missing = self.work.rows[each.table]
            activation = F.embedding(value, self._tables[each.table], padding_idx=missing)
            pooled = each.ids > 1 and not each.sequence
            found.append(activation.sum(1) if pooled else activation)
        torch.autograd.backward(found, self._gradients)
        self._optimizer.step()
        self._optimizer.zero_grad()
        lap("trace")
        runtime.sync(wait=True)
        lap("run")

    def rows(self, table: int, count: int) -> Tensor:
        return self._tables[table].detach()[:count].cpu()


class Fbgemm(Side):
    """FBGEMM's `SplitTableBatchedEmbeddingBagsCodegen` on the CPU, its update fused into the backward."""

    def __init__(self, work: Workload, optimizer: str) -> None:
        super().__init__(work, optimizer)
        if importlib.util.find_spec("fbgemm_gpu") is None:
            raise Unavailable("not installed: pip install --no-deps fbgemm-gpu-cpu==1.4.2")
        if optimizer == "Adam":
            raise Unavailable("FBGEMM 1.4 has no CPU kernel for Adam")
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        kinds = {
            "SGD": EmbOptimType.EXACT_SGD,
            "Adagrad": EmbOptimType.EXACT_ADAGRAD,
            "RowWiseAdagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        }
        # Features of one table must be neighbours there. A sequence is L features of at most one id.
        self._order = sorted(range(len(work.inputs)), key=lambda at: work.inputs[at].table)
        tables = [
            work.inputs[at].table
            for at in self._order
            for _ in range(work.inputs[at].ids if work.inputs[at].sequence else 1)
        ]
        self._module = SplitTableBatchedEmbeddingBagsCodegen(
            [
                (rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)
                for rows, dim in zip(work.rows, work.dims, strict=True)
            ],
            feature_table_map=tables,
            optimizer=kinds[optimizer],
            learning_rate=RATE,
            eps=EPSILON,
        )
        self._tables = self._module.split_embedding_weights()
        for table in self._tables:
            table.zero_()
        if optimizer != "SGD":
            for states in self._module.split_optimizer_states():
                states[0].fill_(START)
        given = gradients_of(work)
        self._gradient = torch.cat([given[at].flatten(1) for at in self._order], dim=1)
        self._ones = torch.ones(work.batch_size, dtype=torch.int64)

    def step(self, batch: list[object], lap: Lap) -> None:
        ids, lengths = [], []
        for at in self._order:
            each, value = self.work.inputs[at], batch[at]
            if isinstance(value, Tensor):
                ids.append(value)
                lengths.append(self._ones)
                continue
            assert isinstance(value, tte.Ragged)
            if each.sequence:
                padded = _padded(value, each, -1).T.flatten()
                real = padded >= 0
                ids.append(padded[real])
                lengths.append(real.to(torch.int64))
            else:
                ids.append(value.values)
                lengths.append(value.row_splits.diff())
        offsets = F.pad(torch.cat(lengths).cumsum(0), (1, 0))
        flat = torch.cat(ids)
        lap("host")
        found = self._module(flat, offsets)
        lap("forward")
        found.backward(self._gradient)
        lap("backward and update")

    def rows(self, table: int, count: int) -> Tensor:
        return self._tables[table][:count].detach().clone()


def _parameters(work: Workload, device: torch.device) -> list[torch.nn.Parameter]:
    # The last row of each table stands for missing ids.
    return [
        torch.nn.Parameter(torch.zeros(rows + 1, dim, device=device))
        for rows, dim in zip(work.rows, work.dims, strict=True)
    ]


def _torch_optimizer(
    name: str, tables: list[torch.nn.Parameter], sparse: bool
) -> torch.optim.Optimizer:
    if name == "SGD":
        return torch.optim.SGD(tables, RATE)
    if name == "Adagrad":
        return torch.optim.Adagrad(tables, RATE, initial_accumulator_value=START, eps=EPSILON)
    kind = torch.optim.SparseAdam if sparse else torch.optim.Adam
    return kind(tables, RATE, betas=(BETA_1, BETA_2), eps=ADAM_EPSILON)


def _padded(value: object, of: Input, missing: int) -> Tensor:
    """Ids `[B, H]`, `missing` where a sample has fewer."""
    assert isinstance(value, tte.Ragged)
    lengths = value.row_splits.diff()
    padded = torch.full((value.batch_size, of.ids), missing)
    padded[torch.arange(of.ids) < lengths[:, None]] = value.values
    return padded


SIDES: dict[str, type[Side]] = {
    "ours": Ours,
    "in-flight": InFlight,
    "replayed": Replayed,
    "torch": TorchSparse,
    "fbgemm": Fbgemm,
    "dense-xla": DenseXla,
    "one-feature": OneFeature,
}
ELSEWHERE = {
    "torchrec": "on a CPU its fused modules run FBGEMM's kernels, which are measured as fbgemm",
    "tensorflow": "needs an environment of its own; no step is written for it",
    "jax": "needs an environment of its own; no step is written for it",
}
"""Peers that are never measured, and why."""

"""The models that most recommenders are, small, as heads on the activations of a few features.

Letters: B batch, D dim, L sequence length, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import torch_tpu_embedding as tte

BATCH, DIM, LENGTH = 6, 3, 3
TABLES = {"users": (7, DIM, "mean"), "items": (9, DIM, "sum"), "wide": (8, 1, "sum")}
"""Name → rows, D, combiner; fewer rows than ids in a batch."""
FEATURES = {
    "user": ("users", "one"),
    "liked": ("users", "bags"),
    "item": ("items", "one"),
    "tags": ("items", "bags"),
    "history": ("items", "sequence"),
    "wide_user": ("wide", "one"),
    "wide_tags": ("wide", "bags"),
}
"""Name → table and kind of ids."""

Rows = Mapping[str, Tensor]
Batch = dict[str, Any]


def feature_config(names: tuple[str, ...]) -> dict[str, tte.FeatureConfig]:
    """The features of a model, with initial rows of a size that makes every gradient count."""
    tables = {
        name: tte.TableConfig(rows, dim, initializer=torch.randn, combiner=combiner, name=name)
        for name, (rows, dim, combiner) in TABLES.items()
    }
    config = {}
    for name in names:
        table, kind = FEATURES[name]
        length = LENGTH if kind == "sequence" else 0
        config[name] = tte.FeatureConfig(tables[table], max_sequence_length=length, name=name)
    return config


def make_batch(names: tuple[str, ...], seed: int) -> Batch:
    """Ids of every feature, and `label` `[B]` and `dense` `[B, 2]`."""
    generator = torch.Generator().manual_seed(seed)
    batch: Batch = {}
    for name in names:
        table, kind = FEATURES[name]
        count = TABLES[table][0]
        if kind == "one":
            batch[name] = torch.randint(0, count, (BATCH,), generator=generator)
            continue
        lengths = torch.tensor([0, 1, 2, 3, 4, 2])[torch.randperm(BATCH, generator=generator)]
        ids = torch.randint(0, count, (int(lengths.sum()),), generator=generator)
        batch[name] = tte.Ragged.from_lengths(ids, lengths)
    batch["label"] = torch.randint(0, 2, (BATCH,), generator=generator).float()
    batch["dense"] = torch.randn(BATCH, 2, generator=generator)
    return batch


def look_up(
    tables: Mapping[str, Tensor], names: tuple[str, ...], batch: Batch
) -> dict[str, Tensor]:
    """The activations, by torch's own functions on whole tables."""
    rows = {}
    for name in names:
        table, kind = FEATURES[name]
        weight, ids = tables[table], batch[name]
        if kind == "one":
            rows[name] = functional.embedding(ids, weight)
        elif kind == "bags":
            rows[name] = functional.embedding_bag(
                ids.values, weight, ids.row_splits[:-1], mode=TABLES[table][2]
            )
        else:
            lengths = ids.row_splits.diff().clamp(max=LENGTH)
            there = torch.arange(LENGTH) < lengths[:, None]
            places = (ids.row_splits[:-1, None] + torch.arange(LENGTH)).where(there, 0)
            rows[name] = functional.embedding(ids.values[places], weight) * there[:, :, None]
    return rows


class Model(nn.Module):
    """A head; `forward` gives the loss, a sum over samples."""

    features: tuple[str, ...]

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        """`[B]`."""
        raise NotImplementedError

    def forward(self, rows: Rows, dense: Tensor, label: Tensor) -> Tensor:
        logits = self.logits(rows, dense).float()
        return functional.binary_cross_entropy_with_logits(logits, label, reduction="sum")


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class LogisticRegression(Model):
    features = ("wide_user", "wide_tags")

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        return torch.cat([rows[name] for name in self.features], dim=1).sum(1) + self.bias


class WideAndDeep(Model):
    features = ("wide_user", "wide_tags", "user", "tags")

    def __init__(self) -> None:
        super().__init__()
        self.deep = mlp(2 * DIM, 4, 1)

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        deep = self.deep(torch.cat([rows["user"], rows["tags"]], dim=1))
        return (rows["wide_user"] + rows["wide_tags"] + deep).squeeze(1)


class DeepFM(Model):
    features = ("wide_user", "wide_tags", "user", "liked", "item", "tags")

    def __init__(self) -> None:
        super().__init__()
        self.deep = mlp(4 * DIM, 4, 1)

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        first = torch.stack([rows["wide_user"], rows["wide_tags"]], dim=1).sum((1, 2))
        fields = torch.stack([rows[name] for name in self.features[2:]], dim=1)
        second = 0.5 * (fields.sum(1).square() - fields.square().sum(1)).sum(1)
        return first + second + self.deep(fields.flatten(1)).squeeze(1)


class DLRM(Model):
    features = ("user", "item", "tags")

    def __init__(self) -> None:
        super().__init__()
        self.bottom, self.top = mlp(2, 4, DIM), mlp(DIM + 6, 4, 1)

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        bottom = self.bottom(dense)
        fields = torch.stack([bottom, *(rows[name] for name in self.features)], dim=1)
        dots = torch.bmm(fields, fields.transpose(1, 2))
        pairs = [dots[:, i, j] for i in range(4) for j in range(i)]
        return self.top(torch.cat([bottom, torch.stack(pairs, dim=1)], dim=1)).squeeze(1)


class DCN(Model):
    features = ("user", "item", "tags")

    def __init__(self) -> None:
        super().__init__()
        self.cross = nn.ModuleList(nn.Linear(3 * DIM, 3 * DIM) for _ in range(2))
        self.last = nn.Linear(3 * DIM, 1)

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        first = x = torch.cat([rows[name] for name in self.features], dim=1)
        for layer in self.cross:
            x = first * layer(x) + x
        return self.last(x).squeeze(1)


class TwoTower(Model):
    """With a softmax over the items of the batch."""

    features = ("user", "liked", "item", "tags")

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, rows: Rows, dense: Tensor, label: Tensor) -> Tensor:
        scores = (rows["user"] + rows["liked"]) @ (rows["item"] + rows["tags"]).T * self.scale
        return -(scores.float().log_softmax(1).diagonal() * label).sum()


class DIN(Model):
    """Attention of the target item over the history."""

    features = ("item", "history")

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.top = mlp(3 * DIM, 4, 1), mlp(2 * DIM, 4, 1)

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        history = rows["history"]
        target = rows["item"][:, None].expand_as(history)
        weights = self.attention(torch.cat([history, target, history * target], dim=2)).softmax(1)
        return self.top(torch.cat([(weights * history).sum(1), rows["item"]], dim=1)).squeeze(1)


class SequenceMean(Model):
    features = ("history", "user")

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(DIM, 1)

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        return self.last(rows["history"].mean(1) + rows["user"]).squeeze(1)


class SequenceSum(Model):
    features = ("history", "user")

    def logits(self, rows: Rows, dense: Tensor) -> Tensor:
        return (rows["history"].sum(1) * rows["user"]).sum(1)


class MMoE(Model):
    """Two tasks, each with its gate over the experts."""

    features = ("user", "tags", "history")

    def __init__(self) -> None:
        super().__init__()
        width = 3 * DIM
        self.experts = nn.ModuleList(mlp(width, 4) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(width, 2) for _ in range(2))
        self.towers = nn.ModuleList(nn.Linear(4, 1) for _ in range(2))

    def forward(self, rows: Rows, dense: Tensor, label: Tensor) -> Tensor:
        x = torch.cat([rows["user"], rows["tags"], rows["history"].sum(1)], dim=1)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        losses = []
        for gate, tower, wanted in zip(self.gates, self.towers, (label, 1 - label), strict=True):
            mixed = (gate(x).softmax(1)[:, :, None] * experts).sum(1)
            losses.append((tower(mixed).squeeze(1).float() - wanted).square().sum())
        return losses[0] + 0.5 * losses[1]


MODELS = [
    LogisticRegression,
    WideAndDeep,
    DeepFM,
    DLRM,
    DCN,
    TwoTower,
    DIN,
    SequenceMean,
    SequenceSum,
    MMoE,
]

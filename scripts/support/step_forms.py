"""Three ways to write a step on embedding tables: this package's, and two obvious ones.

*ours* is `TPUEmbedding`. *naive* is `nn.Embedding` and an optimizer of torch.optim: the gradient and the
update are of the whole table. *plain* looks up and updates the distinct rows only, as this package does,
but holds every table and every slot as an array `[V, D]` of its own, without stacks and lanes.

Letters: B batch, N ids, U unique rows, V vocabulary, D dim, L sequence length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import torch_tpu_embedding as tte

FORMS = ("ours", "naive", "plain")
_ROW_STEP = 8


class Form(ABC):
    """Tables, and the two halves of a step on one batch that stays the same."""

    arrays: list[dict[str, Any]]
    """`fields` and `shape` of each persistent array."""

    @abstractmethod
    def look_up(self) -> list[Tensor]:
        """The activations of each feature, `[B, …, D]`; they require grad if the step trains."""

    @abstractmethod
    def update(self) -> None:
        """Use the gradients that backward has left."""


class Ours(Form):
    """`TPUEmbedding` as a user calls it."""

    def __init__(self, embedding: tte.TPUEmbedding, inputs: list[Any], training: bool) -> None:
        self.embedding, self.inputs, self.training = embedding, inputs, training
        embedding.build()
        self.arrays = [
            {
                "fields": "|".join(array.fields),
                "shape": [*array.shape],
                "dtype": "f32" if array.packed_dim is None else "s32",
            }
            for stack in embedding._tables.engine.store.stacks
            for array in stack.arrays
        ]
        self.shapes: tuple[Any, ...] = ()

    def look_up(self) -> list[Tensor]:
        self.embedding.enqueue(self.inputs, training=self.training)
        activations: list[Tensor] = self.embedding.dequeue()
        if self.training:
            self.shapes = self.embedding._steps.queue.require_awaiting(None).looked_up.batch.shapes
        return activations

    def update(self) -> None:
        self.embedding.apply_gradients()


@dataclass(frozen=True)
class Lookups:
    """The lookups of one feature, on the device."""

    table: int
    ids: Tensor
    """`[N]` int32."""
    bag: Tensor | None
    """`[N]` int32: the bag into which each row is summed; None if every row is an activation."""
    present: Tensor | None
    """`[N, 1]`: 0 where a sequence is padded; None if nothing is."""
    shape: tuple[int, ...]
    """The shape of the activations, without D."""

    def gather(self, rows: Tensor) -> Tensor:
        """The activations, from the row of each lookup `[N, D]`."""
        if self.present is not None:
            rows = rows * self.present
        if self.bag is not None:
            sums = torch.zeros(self.shape[0], rows.shape[1], device=rows.device)
            rows = sums.index_add(0, self.bag, rows)
        return rows.view(*self.shape, rows.shape[1])


def find_lookups(features: list[tte.FeatureConfig], inputs: list[Any]) -> list[Lookups]:
    """Bring dense and ragged ids to one form; tables are numbered as they first occur."""
    tables = list(dict.fromkeys(id(feature.table) for feature in features))
    device = tte.runtime.device()
    found = []
    for feature, value in zip(features, inputs, strict=True):
        bag: Tensor | None = None
        present: Tensor | None = None
        if isinstance(value, Tensor):
            ids, shape = value, (len(value),)
        else:
            lengths = value.row_splits.diff()
            samples = len(lengths)
            bag, ids, shape = (
                torch.arange(samples).repeat_interleave(lengths),
                value.values,
                (samples,),
            )
            length = feature.max_sequence_length
            if length:
                position = torch.arange(len(ids)) - value.row_splits[:-1][bag]
                kept = position < length
                padded = torch.zeros(samples, length, dtype=ids.dtype)
                padded[bag[kept], position[kept]] = ids[kept]
                mask = torch.arange(length) < lengths[:, None]
                ids, shape, bag = padded.flatten(), (samples, length), None
                present = mask.flatten()[:, None].float().to(device)
            else:
                bag = bag.int().to(device)
        table = tables.index(id(feature.table))
        found.append(Lookups(table, ids.int().to(device), bag, present, shape))
    return found


class Naive(Form):
    """`nn.Embedding` and torch.optim on the whole tables."""

    def __init__(
        self, features: list[tte.FeatureConfig], inputs: list[Any], optimizer: str, training: bool
    ) -> None:
        device = tte.runtime.device()
        self.lookups = find_lookups(features, inputs)
        configs = list({id(each.table): each.table for each in features}.values())
        self.weights = [
            torch.zeros(each.vocabulary_size, each.dim, device=device, requires_grad=training)
            for each in configs
        ]
        self.optimizer = getattr(torch.optim, optimizer)(self.weights, lr=0.05, foreach=False)
        slots = {"SGD": 0, "Adagrad": 1, "Adam": 2}[optimizer] if training else 0
        self.arrays = [
            {"fields": name, "shape": [*weight.shape], "dtype": "f32"}
            for weight in self.weights
            for name in ("weight", "slot", "slot")[: 1 + slots]
        ]

    def look_up(self) -> list[Tensor]:
        return [
            each.gather(functional.embedding(each.ids, self.weights[each.table]))
            for each in self.lookups
        ]

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


class Plain(Form):
    """Lookups and updates of the distinct rows only, in arrays `[V, D]`, one for each table and slot."""

    def __init__(
        self,
        features: list[tte.FeatureConfig],
        inputs: list[Any],
        rule: tte.optimizers.Optimizer,
        training: bool,
    ) -> None:
        device = tte.runtime.device()
        self.lookups, self.rule, self.training = find_lookups(features, inputs), rule, training
        self.rate = torch.full((1,), 0.05).to(device)
        configs = list({id(each.table): each.table for each in features}.values())
        self.tables: list[dict[str, Tensor]] = []
        self.arrays = []
        taken: set[int] = set()
        slots = rule.slot_initial_values() if training else {}
        for config in configs:
            arrays = {}
            for name, start in {"weight": 0.0, **slots}.items():
                width = config.dim if name == "weight" else rule.slot_width(name, config.dim)
                rows = config.vocabulary_size
                while rows * width in taken:  # equal sizes would be swapped by XLA, at a copy each
                    rows += _ROW_STEP
                taken.add(rows * width)
                arrays[name] = torch.full((rows, width), start, device=device)
                self.arrays.append({"fields": name, "shape": [rows, width]})
            self.tables.append(arrays)
        self.unique, self.inverse = self._deduplicate()
        self.rows: list[Tensor] = []

    def _deduplicate(self) -> tuple[list[Tensor], list[Tensor]]:
        """Unique ids of each table `[U]`; and of each feature the positions of its ids among them `[N]`."""
        device = tte.runtime.device()
        unique: list[Tensor] = []
        inverse: dict[int, Tensor] = {}
        for table in range(len(self.tables)):
            members = [n for n, each in enumerate(self.lookups) if each.table == table]
            ids = [self.lookups[n].ids.cpu() for n in members]
            distinct, positions = torch.cat(ids).unique(return_inverse=True)
            unique.append(distinct.int().to(device))
            parts = positions.int().split([len(part) for part in ids])
            inverse.update({n: part.to(device) for n, part in zip(members, parts, strict=True)})
        return unique, [inverse[n] for n in range(len(self.lookups))]

    def look_up(self) -> list[Tensor]:
        self.rows = [
            arrays["weight"].index_select(0, unique).requires_grad_(self.training)
            for arrays, unique in zip(self.tables, self.unique, strict=True)
        ]
        return [
            each.gather(self.rows[each.table].index_select(0, inverse))
            for each, inverse in zip(self.lookups, self.inverse, strict=True)
        ]

    @torch.no_grad()
    def update(self) -> None:
        for arrays, unique, rows in zip(self.tables, self.unique, self.rows, strict=True):
            assert rows.grad is not None
            slots = {n: a.index_select(0, unique) for n, a in arrays.items() if n != "weight"}
            change, changes = self.rule.step(rows.detach(), slots, rows.grad, self.rate)
            for name, value in {"weight": change, **changes}.items():
                arrays[name].index_add_(0, unique, value)
        self.rows = []

"""Inference batches of any number of samples: filled up to a multiple of the batch size, and cut again.

A program has one batch size. Samples without ids fill a batch up to it, or to the next multiple, and their
rows are cut off the activations. So an evaluation compiles once for its batches, and once for a last one of
another size. Letters: B batch of all processes, S processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..config.resolved import Resolved
from ..inputs.at_once.bags import AtOnceBags
from ..inputs.bags import NO_ID, Bags


@dataclass(frozen=True)
class Samples:
    """The number of samples of this process's batch, and the features whose shape follows from it."""

    count: int
    """Samples of the batch as it was given."""
    unit: int
    """B / S, the number of samples that programs are made for."""
    follows: tuple[bool, ...]
    """Per feature, True if the first size of its activations is the number of samples, False if the feature
    has a shape of its own."""

    @property
    def times(self) -> int:
        """The least multiple of `unit` that holds the samples."""
        return max(-(-self.count // self.unit), 1)

    def fill(self, bags: Sequence[Bags], times: int) -> Sequence[Bags]:
        """The bags with samples without ids behind them, up to `times` · `unit` samples."""
        size = times * self.unit
        if self.count == size:
            return bags
        return [
            _fill(each, size) if follows and each.shape[0] < size else each
            for each, follows in zip(bags, self.follows, strict=True)
        ]


def _fill(bags: Bags, size: int) -> Bags:
    shape = (size, *bags.shape[1:])
    if bags.bag is not None:
        return replace(bags, shape=shape)  # bags without an id
    more = math.prod(shape) - len(bags.ids)
    return replace(bags, ids=torch.cat([bags.ids, bags.ids.new_full((more,), NO_ID)]), shape=shape)


class SampleCount:
    """Says how many samples a batch has, and refuses those that the batch size forbids.

    Args:
        batch_size: B. processes: S.
    """

    def __init__(self, resolved: Resolved, batch_size: int, processes: int) -> None:
        self._resolved = resolved
        self._batch_size = batch_size
        self._processes = processes

    def of(
        self, bags: Sequence[Bags], shapes: Sequence[tuple[int, ...] | None], training: bool
    ) -> Samples:
        """The samples of a batch.

        Args:
            bags: in feature order.
            shapes: of the features that have one of their own.

        Raises:
            ValueError: the features have different numbers of them, or it is a training batch of another
                size than B / S.
        """
        unit = self._batch_size // self._processes
        if isinstance(bags, AtOnceBags) and (bags.size == unit or not training):
            return Samples(bags.size, unit, (True,) * len(bags))
        follows = tuple(shape is None for shape in shapes)
        first = None
        for number, (each, counts) in enumerate(zip(bags, follows, strict=True)):
            if not counts:
                continue
            if training and each.shape[0] != unit:
                raise ValueError(f"{self._where(number)}: {self._wrong_size(each.shape[0], unit)}")
            if first is None:
                first = number
            elif each.shape[0] != bags[first].shape[0]:
                raise ValueError(
                    f"{self._where(number)}: got {each.shape[0]} samples, but {self._where(first)} has "
                    f"{bags[first].shape[0]}; all features of a batch must have the same samples"
                )
        return Samples(unit if first is None else bags[first].shape[0], unit, follows)

    def _where(self, number: int) -> str:
        feature = self._resolved.features[number]
        return f"feature {feature.name!r} (table {self._resolved.table_of(feature).name!r})"

    def _wrong_size(self, got: int, unit: int) -> str:
        built = f"TPUEmbedding was built for batch_size={self._batch_size}"
        if self._processes > 1:
            built += f" of all {self._processes} processes together, of which each enqueues {unit}"
        return (
            f"got {got} samples, but {built}; drop a last batch that is not full (drop_last=True), or fill "
            "it up: distributed.local_positions gives the samples to take and which of them are real; the "
            "others must have no weight in the loss. Inference (training=False, eval()) takes any number"
        )

"""Training batches in a seeded order, prepared by a thread, with a position in the data that can be saved.

The examples train through `EmbeddingLoader`: while the device works on a step, a thread cuts the next
batches, checks and deduplicates their ids, and sends them.

Shape letters: B batch, R rows of the training data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import torch_tpu_embedding as tte


class TrainingOrder(Iterator[np.ndarray]):
    """Endless epochs over R training rows, each shuffled by (seed, epoch); gives batch after batch.

    The state is only a position, so a resumed run sees exactly the batches to come, and every process of a
    run sees the same ones.

    Args:
        rows: R.
        whole_batches: leave out the rows that remain of an epoch after its last whole batch; otherwise
            they are a shorter batch.
    """

    def __init__(
        self, rows: int, batch_size: int, seed: int, *, whole_batches: bool = False
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.batches = rows // batch_size if whole_batches else -(-rows // batch_size)
        self.load_state_dict({"epoch": 0, "batch": 0})

    def __next__(self) -> np.ndarray:
        if self.batch == self.batches:
            self.load_state_dict({"epoch": self.epoch + 1, "batch": 0})
        start = self.batch * self.batch_size
        self.batch += 1
        return self.shuffled[start : start + self.batch_size]

    def state_dict(self) -> dict[str, int]:
        """The position in the training rows."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position that `state_dict` gave."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.shuffled = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)


@dataclass(frozen=True)
class Batch:
    """The host tensors of one step, for the samples that this process takes."""

    numbers: (
        torch.Tensor
    )  # [B, …] float32: everything but ids, together, so that one transfer sends it
    features: dict[str, torch.Tensor | tte.Ragged]  # ids by the name of the feature
    weights: dict[str, tte.Ragged | None]  # of the ids; None where all weigh the same


class _Batches:
    """The batches of an order; its state is the order's, which is how `EmbeddingLoader` finds it."""

    def __init__(self, order: TrainingOrder, cut: Callable[[np.ndarray], Batch]) -> None:
        self.order, self.cut = order, cut
        self.state_dict = order.state_dict
        self.load_state_dict = order.load_state_dict

    def __iter__(self) -> Iterator[Batch]:
        return map(self.cut, self.order)


class BackgroundBatches(Iterator[torch.Tensor]):
    """Batch after batch from a thread: `next` gives the numbers, `embedding.dequeue` the activations.

    Args:
        cut: makes a batch from the rows that the order gives; called in the thread.
    """

    def __init__(
        self,
        order: TrainingOrder,
        cut: Callable[[np.ndarray], Batch],
        embedding: tte.TPUEmbedding,
    ) -> None:
        self._loader = tte.EmbeddingLoader(
            _Batches(order, cut),
            embedding,
            features=lambda batch: batch.features,
            weights=lambda batch: batch.weights,
            prepare=lambda batch: embedding.to_device(batch.numbers),
        )
        self._iterator: Any = None

    def __next__(self) -> torch.Tensor:
        if self._iterator is None:
            self._iterator = iter(self._loader)
        return next(self._iterator)

    def close(self) -> None:
        """End the thread. Batches that it had ready are given back: `next` would go on where it was."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None
            self.load_state_dict(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The position after the batch that `next` gave last, however many the thread has ready."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position that `state_dict` gave."""
        self._loader.load_state_dict(state)

"""Users and items as vectors, learned from one click after the other.

Shape letters: B batch, D dim.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from common.preemption import require_same
from torch.nn import functional

import torch_tpu_embedding as tte
from stream.data import USERS, Stream

WAYS = ("dynamic", "hashed", "frozen")
DIM = 8
OOV_ROWS = 50


@dataclass(frozen=True)
class Settings:
    """The settings that decide a run."""

    way: str = "dynamic"
    seed: int = 0
    rows: int = 1_000
    batch_size: int = 256


def vocabulary(way: str) -> tte.DynamicVocabulary | tte.HashedVocabulary:
    """The way from ids to rows."""
    if way == "hashed":
        return tte.HashedVocabulary()
    return tte.DynamicVocabulary("lru" if way == "dynamic" else None, oov_rows=OOV_ROWS)


class Trainer:
    """Tables that learn from a stream; `save_checkpoint` and `resume` of common/ know what it has.

    Attributes:
        history: 'labels' and 'logits' of all clicks, these from before they were learned.
    """

    def __init__(self, settings: Settings, stream: Stream) -> None:
        self.settings, self.stream, self.step = settings, stream, 0
        self.history: dict[str, list[torch.Tensor]] = {"labels": [], "logits": []}
        items = tte.TableConfig(
            settings.rows, DIM + 1, name="item", vocabulary=vocabulary(settings.way)
        )
        users = tte.TableConfig(USERS, DIM + 1, name="user")
        features = {"item": tte.FeatureConfig(items), "user": tte.FeatureConfig(users)}
        self.embedding = tte.TPUEmbedding(
            features, settings.batch_size, tte.Adagrad(0.15), seed=settings.seed
        )

    def advance(self) -> None:
        """Predict the clicks of the next batch, and learn from them."""
        clicks = self.stream.batch(self.step)
        item = tte.hash_ids(clicks.items)  # raw strings; nothing else knows which items there are
        self.embedding.enqueue({"item": item, "user": torch.from_numpy(clicks.users)})
        labels = torch.from_numpy(clicks.labels)
        logits = self._learn(self.embedding.to_device(labels))
        tte.runtime.sync()
        self.step += 1
        self.history["labels"].append(labels)
        self.history["logits"].append(self.embedding.to_host(logits))

    def _learn(self, labels: torch.Tensor) -> torch.Tensor:
        rows = self.embedding.dequeue()
        product = rows["item"][:, :DIM] * rows["user"][:, :DIM]
        logits = product.sum(1) + rows["item"][:, DIM] + rows["user"][:, DIM]
        functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum").backward()
        self.embedding.apply_gradients()
        return logits.detach()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs besides the tables."""
        joined = {name: torch.cat(each) for name, each in self.history.items()}
        return {"settings": self._identity(), "step": self.step, "history": joined}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: the state is of a run with other settings.
        """
        require_same(state["settings"], self._identity())
        self.step = state["step"]
        self.history = {name: [each] for name, each in state["history"].items()}

    def _identity(self) -> dict[str, Any]:
        return {**asdict(self.settings), "steps": self.stream.steps}

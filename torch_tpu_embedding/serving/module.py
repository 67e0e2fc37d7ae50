"""TPUEmbeddingForServing: the tables on the CPU, with nothing that only training needs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..config.resolved import WEIGHT
from ..embedding import TPUEmbedding
from ..optimizers import Optimizer
from ..tables.state_dict import state_keys


class TPUEmbeddingForServing(TPUEmbedding):
    """Tables and lookup on the CPU, after `tf.tpu.experimental.embedding.TPUEmbeddingForServing`.

    A `TPUEmbedding` with `device="cpu"` and no batch size: it loads what one on an XLA device saved, and
    looks up any part of the features, in batches of any size.

    Args:
        feature_config: a FeatureConfig, or a nest of them (dict, list, tuple).
        optimizer: None for weights alone; an optimizer for its slots too.
        id_bounds: as for TPUEmbedding.
        seed: as for TPUEmbedding.
    """

    def __init__(
        self,
        feature_config: Any,
        optimizer: Optimizer | None = None,
        *,
        id_bounds: str = "raise",
        seed: int | None = None,
    ) -> None:
        super().__init__(feature_config, 1, optimizer, device="cpu", id_bounds=id_bounds, seed=seed)

    def embedding_lookup(self, features: Any, weights: Any = None) -> Any:
        """The object called, by TF's name: activations `[B, D]` or `[B, L, D]`, nested like the features.

        Args:
            features: any part of them, nested like feature_config.
            weights: None, or nested like the features.

        Raises:
            TypeError, ValueError: an input is wrong.
        """
        return self(features, weights)

    @property
    def variables(self) -> dict[str, dict[str, Tensor]]:
        """Table name → 'parameters' and slot names → tensors, as in TF."""
        return {
            table.name: {
                "parameters" if field == WEIGHT else field: self._held(key)
                for field, key in state_keys(table).items()
            }
            for table in self.resolved.tables
        }

"""A loader without `features=` on batches that hold more than the features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch_tpu_embedding as tte


@pytest.mark.parametrize(
    "batch",
    [
        {"id": torch.tensor([1, 2]), "label": torch.zeros(2)},
        {"ids": {"id": torch.tensor([1, 2])}},
        (torch.tensor([1, 2]), torch.zeros(2)),
    ],
    ids=["more keys", "other keys", "a tuple"],
)
def test_the_error_names_the_argument_and_the_remedy_works(batch: Any) -> None:
    table = tte.TableConfig(50, 4, name="a")
    embedding = tte.TPUEmbedding({"id": tte.FeatureConfig(table)}, 2, tte.Adagrad(0.1))
    with pytest.raises((TypeError, ValueError), match=r"pass features=lambda batch: …"):
        next(iter(tte.EmbeddingLoader([batch], embedding)))
    loader = tte.EmbeddingLoader(
        [batch], embedding, features=lambda _: {"id": torch.tensor([1, 2])}
    )
    for _ in loader:
        assert embedding.dequeue()["id"].shape == (2, 4)
        embedding.discard()

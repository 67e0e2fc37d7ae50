"""Tables in bfloat16 whose ids are hashed, or get and lose rows."""

from __future__ import annotations

import pytest
import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime import DeviceKind

B, D = 4, 6


def make(
    vocabulary: tte.HashedVocabulary | tte.DynamicVocabulary, layout: DeviceKind | None = None
) -> tte.TPUEmbedding:
    table = tte.TableConfig(
        16, D, name="t", dtype=torch.bfloat16, combiner="sum", vocabulary=vocabulary
    )
    return tte.TPUEmbedding([tte.FeatureConfig(table)], B, tte.Adagrad(0.1), seed=0, layout=layout)


def step(embedding: tte.TPUEmbedding, ids: list[int], gradient: float = 0.3) -> torch.Tensor:
    embedding.enqueue([torch.tensor(ids)])
    (activations,) = embedding.dequeue()
    embedding.apply_gradients([torch.full_like(activations, gradient)])
    found: torch.Tensor = activations.detach().cpu()
    return found


@pytest.mark.parametrize("layout", [None, "TPU"])
def test_a_new_row_starts_as_bfloat16_numbers_with_fresh_slots_and_trains(
    layout: DeviceKind | None,
) -> None:
    vocabulary = tte.DynamicVocabulary(admission=1, oov_rows=2)
    embedding = make(vocabulary, layout)
    first = step(embedding, [10**12, -5, 7, 8], gradient=0.0)
    assert torch.equal(first, first.bfloat16().float())
    assert first.any(dim=1).all()
    again = step(embedding, [10**12, -5, 7, 8])
    assert torch.equal(again, first), "a gradient of 0 changes no bit"
    moved = step(embedding, [10**12, -5, 7, 8])
    assert (moved < first).any(dim=1).all()
    slots = embedding.state_dict()["t.accumulators"]
    assert sorted({round(each, 4) for each in slots.flatten().tolist()}) == [0.1, 0.28]
    other = make(vocabulary, layout)
    other.load_state_dict(embedding.state_dict())
    ids = torch.tensor([10**12, -5, 7, 8])
    assert torch.equal(other.read_rows("t", ids), embedding.read_rows("t", ids))
    served = tte.export_serving(embedding)({"0": ids})["0"]
    assert torch.equal(served, embedding.read_rows("t", ids))


def test_hashed_ids_train() -> None:
    embedding = make(tte.HashedVocabulary(hash_functions=2))
    ids = [10**12, -5, 7, 8]
    before = embedding.read_rows("t", ids)
    assert torch.equal(step(embedding, ids), before)
    assert (embedding.read_rows("t", ids) < before).any(dim=1).all()
    assert embedding.state_dict()["t.weight"].dtype == torch.bfloat16

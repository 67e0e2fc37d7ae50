"""How exact sums in float32 are: of many ids in a bag, and of many gradients of an id."""

from __future__ import annotations

import pytest
import torch

import torch_tpu_embedding as tte

COUNT = 200_000
BOUND = (COUNT + 2) * 2.0**-24
"""The error of n numbers added in turn, each rounded to 24 bits: n 2^-24 of the sum of their sizes."""


@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_a_long_bag_and_the_gradient_of_a_frequent_id_are_within_the_documented_bound(
    value: float,
) -> None:
    def start(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.full(shape, value, dtype=dtype)

    features = {
        combiner: tte.FeatureConfig(
            tte.TableConfig(4, 2, combiner=combiner, initializer=start, name=combiner)
        )
        for combiner in ("sum", "mean", "sqrtn")
    }
    # bags of such different lengths are summed by a scatter, id after id
    splits = torch.tensor([0, COUNT, COUNT + 1])
    batch = dict.fromkeys(features, tte.Ragged(torch.ones(COUNT + 1, dtype=torch.int64), splits))
    embedding = tte.TPUEmbedding(features, 2, tte.SGD(1.0))
    embedding.enqueue(batch)
    found = embedding.dequeue()
    embedding.apply_gradients({name: torch.full_like(each, value) for name, each in found.items()})
    served = tte.TPUEmbeddingForServing(features)(batch)
    after = embedding.state_dict()
    gain = {"sum": 1.0, "mean": 1 / COUNT, "sqrtn": COUNT**-0.5}
    exact_value = float(torch.tensor(value))
    for name in features:
        exact = exact_value * COUNT * gain[name]
        for each in (found[name].detach().cpu(), served[name].detach()):
            assert abs(float(each[0, 0]) / exact - 1) <= BOUND
        moved = exact_value - float(after[f"{name}.weight"][1, 0])
        assert abs(moved / (exact + exact_value) - 1) <= BOUND

"""A clipped number keeps its nan, on XLA's device as on torch's own."""

from __future__ import annotations

import math

import pytest
import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.quantization import quantize
from torch_tpu_embedding.optimizers.bounds import bounded

NUMBERS = torch.tensor([[math.nan, -9.0, 0.25], [9.0, math.inf, -math.inf]])


def test_bounds_and_rounding_of_a_device_are_those_of_torch() -> None:
    config = tte.QuantizationConfig(5, -1.0, 1.0)
    pairs = [(-0.5, 2.0), (None, 2.0), (-0.5, None)]
    there = NUMBERS.to(tte.runtime.device())
    found = torch.stack([*(bounded(there, *pair) for pair in pairs), quantize(there, config)]).cpu()
    wanted = [*(NUMBERS.clamp(*pair) for pair in pairs), quantize(NUMBERS, config)]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bounds", [{"clipvalue": 0.5}, {"clip_weight_max": 5.0}], ids=str)
def test_a_nan_gradient_reaches_its_row_though_it_is_clipped(bounds: dict[str, float]) -> None:
    table = tte.TableConfig(3, 2, name="rows", optimizer=tte.SGD(1.0, **bounds))
    embedding = tte.TPUEmbedding(tte.FeatureConfig(table), 2, None)
    embedding.enqueue(torch.tensor([0, 1]))
    embedding.dequeue()
    embedding.apply_gradients(torch.tensor([[math.nan] * 2, [1.0] * 2]).to(embedding.device))
    tte.runtime.sync()
    rows = embedding.state_dict()["rows.weight"]
    assert rows.isnan().all(1).tolist() == [True, False, False]

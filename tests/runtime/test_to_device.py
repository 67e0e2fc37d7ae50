"""`to_device` takes what data sets give: tensors, numpy arrays, and nests of them."""

from __future__ import annotations

import collections
import re
from typing import Any

import numpy as np
import pytest
import torch

import torch_tpu_embedding as tte

Batch = collections.namedtuple("Batch", "labels dense")


@pytest.fixture(params=["cpu", None])
def embedding(request: pytest.SubRequest) -> tte.TPUEmbedding:
    features = [tte.FeatureConfig(tte.TableConfig(4, 2, name="a"))]
    return tte.TPUEmbedding(features, 2, tte.SGD(), device=request.param)


def test_arrays_and_nests_become_tensors_on_the_device(embedding: tte.TPUEmbedding) -> None:
    dense = np.arange(6, dtype=">f4").reshape(2, 3)[:, ::-1]
    given = {
        "a": torch.tensor([1.0, 0.0]),
        "b": [np.array([1, 2]), Batch(np.array([True, False]), dense)],
    }
    found = embedding.to_device(given)
    labels, (ids, batch) = found["a"], found["b"]
    assert type(batch) is Batch
    for tensor, wanted in (
        (labels, given["a"]), (ids, torch.tensor([1, 2])), (batch.labels, torch.tensor([True, False])),
        (batch.dense, torch.from_numpy(dense.astype("f4"))),
    ):  # fmt: skip
        assert tensor.device == embedding.to_device(torch.zeros(2)).device
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor.cpu(), wanted)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, "to_device: expected a tensor, a numpy array of numbers"),
        ({"x": [torch.zeros(2), "y"]}, "to_device['x'][1]: expected a tensor"),
        ({"x": np.array(["y"])}, "to_device['x']: expected a tensor"),
        (None, "got NoneType; make it a tensor with torch.as_tensor"),
    ],
)
def test_other_values_are_named_with_their_place(
    embedding: tte.TPUEmbedding, value: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        embedding.to_device(value)


def test_to_host_takes_the_nests_that_to_device_gave(embedding: tte.TPUEmbedding) -> None:
    batch = Batch(torch.tensor([1.0, 0.0]), [torch.tensor([[1.0], [2.0]])])
    found = embedding.to_host({"x": embedding.to_device(batch)})["x"]
    assert type(found) is Batch
    assert found.labels.device.type == found.dense[0].device.type == "cpu"
    assert torch.equal(found.labels, batch.labels)
    assert torch.equal(found.dense[0], batch.dense[0])
    with pytest.raises(TypeError, match=re.escape("to_host['x']: expected a tensor")):
        embedding.to_host({"x": 3.0})

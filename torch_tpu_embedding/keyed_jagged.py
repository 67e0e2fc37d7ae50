"""TorchRec's KeyedJaggedTensor as an input, told by its methods: torchrec is not imported."""

from __future__ import annotations

from typing import Any

import torch

from .ragged import Ragged

_METHODS = ("keys", "values", "offsets", "stride", "weights_or_none")


def is_keyed_jagged(value: object) -> bool:
    """Whether `value` has the methods of a KeyedJaggedTensor."""
    return all(callable(getattr(value, method, None)) for method in _METHODS)


def split_keyed_jagged(value: Any) -> tuple[dict[str, Ragged], dict[str, Ragged | None]]:
    """(features, weights) by key, sharing the tensors' memory.

    Raises:
        ValueError: the number of samples differs from key to key, or a tensor is not on the host.
    """
    keys = list(value.keys())
    offsets = value.offsets()
    if offsets.device.type != "cpu":
        raise ValueError(
            f"KeyedJaggedTensor: input must be on the host (CPU), got {offsets.device}; leave ids on "
            "the CPU, enqueue moves what the device needs"
        )
    variable = getattr(value, "variable_stride_per_key", None)
    if callable(variable) and variable():
        raise ValueError(
            "KeyedJaggedTensor: every key must have the same number of samples; expand a batch with "
            "variable stride per key first"
        )
    stride = value.stride()
    flat, weights = value.values(), value.weights_or_none()
    ids: dict[str, Ragged] = {}
    of_ids: dict[str, Ragged | None] = {}
    for number, key in enumerate(keys):
        splits = offsets[number * stride : (number + 1) * stride + 1].to(torch.int64)
        first, last = int(splits[0]), int(splits[-1])
        ids[key] = Ragged(flat[first:last], splits - first)
        of_ids[key] = None if weights is None else Ragged(weights[first:last], splits - first)
    return ids, of_ids

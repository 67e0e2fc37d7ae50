"""Tables in bfloat16 with all that may come with them, and steps whose sums are exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import torch_tpu_embedding as tte

SAMPLES = 8


def config(rows: int = 13) -> dict[str, tte.FeatureConfig]:
    """One-hot, bags, a sequence with a padding id, rounded rows, activations in either dtype."""
    halves = torch.bfloat16
    one = tte.TableConfig(rows, 4, name="one", combiner="sum", dtype=halves, slot_dtype=halves)
    bags = tte.TableConfig(
        rows, 4, name="bags", combiner="sum", dtype=halves, slot_dtype=halves, padding_idx=2
    )
    nearest = tte.TableConfig(
        rows, 3, name="near", combiner="sum", dtype=halves, rounding="nearest", padding_idx=-1
    )
    plain = tte.TableConfig(rows, 4, name="plain", combiner="sum")
    return {
        "one": tte.FeatureConfig(one, output_dtype=halves),
        "bags": tte.FeatureConfig(bags),
        "more": tte.FeatureConfig(bags, output_dtype=halves),
        "sequence": tte.FeatureConfig(nearest, max_sequence_length=3, output_dtype=halves),
        "plain": tte.FeatureConfig(plain, output_dtype=halves),
    }


def batch(seed: int, rows: int = 13, samples: int = SAMPLES) -> dict[str, Any]:
    """The ids of `config`."""
    generator = torch.Generator().manual_seed(seed)

    def bags() -> tte.Ragged:
        lengths = torch.randint(0, 4, (samples,), generator=generator)
        ids = torch.randint(rows, (int(lengths.sum()),), generator=generator)
        return tte.Ragged.from_lengths(ids, lengths)

    found: dict[str, Any] = {key: bags() for key in config()}
    found["one"] = torch.randint(rows, (samples,), generator=generator)
    return found


def exact_gradients(activations: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Small multiples of 2^-9, which bfloat16 has, too: sums of them are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: (torch.randint(-7, 8, each.shape, generator=generator) / 2.0**9).to(each.dtype)
        for key, each in activations.items()
    }

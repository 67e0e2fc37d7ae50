"""Tables in bfloat16, and steps whose sums are exact: two ways of computing them agree in every bit."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import torch
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.reference import Sample
from torch_tpu_embedding.tables.state_dict import EXTRA_KEY

BATCH = 4
SGD = tte.SGD(0.25)
Ids = list[list[list[int]]]
"""Feature by feature and sample by sample."""


def config(
    rounding: str | None = None,
    slots: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.bfloat16,
) -> list[tte.FeatureConfig]:
    """Three tables in two stacks, two features on one table, an odd dim, sums and a sequence."""
    a, b, c = (
        tte.TableConfig(
            rows,
            dim,
            combiner="sum",
            name=name,
            dtype=dtype,
            rounding=rounding,
            slot_dtype=slots,
        )
        for name, rows, dim in (("a", 7, 4), ("b", 5, 4), ("c", 9, 3))
    )
    return [
        tte.FeatureConfig(a, name="a0"),
        tte.FeatureConfig(b, name="b0"),
        tte.FeatureConfig(a, name="a1"),
        tte.FeatureConfig(c, name="c0"),
        tte.FeatureConfig(b, name="sequence", max_sequence_length=3),
    ]


@st.composite
def batches(draw: st.DrawFn, size: int = BATCH) -> Ids:
    """The ids of one batch of `config`, with empty bags and repeated ids."""
    found = []
    for feature in config():
        ids = st.integers(0, feature.table.vocabulary_size - 1)
        found.append(draw(st.lists(st.lists(ids, max_size=5), min_size=size, max_size=size)))
    return found


def random_ids(seed: int, size: int = BATCH) -> Ids:
    """Such a batch, from a generator."""
    generator = torch.Generator().manual_seed(seed)

    def some(rows: int) -> list[int]:
        count = int(torch.randint(0, 5, (), generator=generator))
        found: list[int] = torch.randint(0, rows, (count,), generator=generator).tolist()
        return found

    return [[some(f.table.vocabulary_size) for _ in range(size)] for f in config()]


def as_samples(ids: Ids) -> list[list[Sample]]:
    """The batch as the reference takes it."""
    return [[[(each, 1.0) for each in sample] for sample in samples] for samples in ids]


def ragged(ids: Ids) -> list[tte.Ragged]:
    """The batch as `enqueue` takes it."""
    return [tte.Ragged.from_lists(samples) for samples in ids]


def exact_gradients(shapes: Sequence[Sequence[int]], seed: int) -> list[Tensor]:
    """Gradients that are small multiples of 2^-9: sums of them are exact in float32, and so is a weight
    after a step of them, but for what rounding to bfloat16 takes from it."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-7, 8, [*each], generator=generator) / 2.0**9 for each in shapes]


def tensors(embedding: tte.TPUEmbedding) -> dict[str, Tensor]:
    """The tables and slots of its state."""
    state = embedding.state_dict()
    return {key: value for key, value in state.items() if key != EXTRA_KEY}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype, key
        assert torch.equal(value, other[key]), key

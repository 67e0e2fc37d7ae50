"""Deduplication gives what torch.unique gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_tpu_embedding.batch.dedup import unique_inverse

small = st.lists(st.integers(0, 30), max_size=60)
large = st.lists(st.integers(0, 2**63 - 1), max_size=20)


@given(small | large, st.integers(1, 400))
def test_unique_inverse_gives_what_torch_unique_gives(values: list[int], room: int) -> None:
    keys = torch.tensor(values, dtype=torch.int64)
    wanted, wanted_inverse = torch.unique(keys, return_inverse=True)
    unique, inverse = unique_inverse(keys.clone(), max(values, default=0) + room)
    assert unique.dtype == torch.int64
    assert torch.equal(unique, wanted)
    assert inverse.dtype == torch.int32
    assert torch.equal(inverse.long(), wanted_inverse)


@pytest.mark.parametrize("below", [True, False])
def test_keys_too_large_to_be_packed_with_their_place_are_told_apart(below: bool) -> None:
    count = 4  # places take three bits
    largest = 2**60 - 1 if below else 2**60
    keys = torch.tensor([largest, 0, largest - 1, largest][:count])
    unique, inverse = unique_inverse(keys.clone(), largest + 1)
    assert unique.tolist() == [0, largest - 1, largest]
    assert inverse.tolist() == [2, 0, 1, 2]


@given(st.lists(st.integers(0, 99), min_size=25, max_size=60))
def test_few_and_many_possible_keys_give_the_same(values: list[int]) -> None:
    keys = torch.tensor(values)
    few, many = unique_inverse(keys.clone(), 100), unique_inverse(keys.clone(), 2**40)
    assert all(map(torch.equal, few, many))

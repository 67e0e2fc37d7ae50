"""Sparse and jagged tensors that torch made unchecked are checked; a batch without ids may be of floats."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nested import nested_tensor_from_jagged

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.inputs.bags import Bags, parse

V = 10


def parsed(value: object, weights: object = None, length: int = 0, **options: object) -> Bags:
    table = tte.TableConfig(V, 2, combiner="sum", name="items")
    config = tte.FeatureConfig(table, max_sequence_length=length, name="clicks")
    resolved = resolve(config, None)
    return parse(resolved.features[0], resolved.tables[0], value, weights, **options)  # type: ignore[arg-type]


def unchecked(
    indices: list[list[int]], values: list[float], size: tuple[int, ...], coalesced: bool = False
) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.tensor(indices, dtype=torch.int64), torch.tensor(values), size,
        check_invariants=False, is_coalesced=coalesced,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 3), st.sampled_from([0, 2]), st.booleans(), st.booleans())
def test_a_sparse_tensor_is_taken_exactly_when_its_indices_lie_within_its_shape(
    data: st.DataObject, rank: int, length: int, coalesced: bool, weighted: bool
) -> None:
    length = length if rank == 2 else 0
    size = (3, 2, 4)[-rank:]
    entries = data.draw(
        st.lists(st.tuples(*[st.integers(-1, n) for n in size]), max_size=4, unique=True)
    )
    indices = [[entry[d] for entry in entries] for d in range(rank)]
    value = unchecked(indices, [*range(len(entries))], size, coalesced)
    weights = None
    if weighted and not length:
        weights = unchecked(indices, [float(n) for n in range(len(entries))], size, coalesced)
    bad = [e for e in entries if any(not 0 <= i < n for i, n in zip(e, size, strict=True))]
    if bad:
        at = entries.index(bad[0])
        message = (
            f"entry {at} of the sparse tensor, {at}, is at index {[*bad[0]]}, outside its shape "
        )
        message += str([*size])
        with pytest.raises(ValueError, match=f"'clicks'.*'items'.*{re.escape(message)}"):
            parsed(value.to(torch.int64), weights, length)
        return
    bags = parsed(value.to(torch.int64), weights, length)
    if length:
        kept = {(b, p): n for n, (b, p) in enumerate(entries) if p < length}
        assert bags.ids.tolist() == [
            kept.get((b, p), -1) for b in range(size[0]) for p in range(length)
        ]
        return
    order = sorted(range(len(entries)), key=lambda n: entries[n])
    assert bags.ids.tolist() == order
    assert bags.bag is not None
    assert bags.bag.tolist() == sorted(bags.bag.tolist())
    assert bags.gain is not None
    assert bags.gain.tolist() == [float(n) if weights is not None else 1.0 for n in order]


@pytest.mark.parametrize(
    ("offsets", "lengths", "message"),
    [
        ([0, 2, 9], None, "sample 1 of the jagged tensor has 7 values from 2 on, .* its 4 values"),
        ([0, 3, 2, 4], None, "sample 1 of the jagged tensor has -1 values from 3 on"),
        ([-1, 2, 4], None, "sample 0 of the jagged tensor has 3 values from -1 on"),
        ([0, 2, 4], [2, 3], "sample 1 of the jagged tensor has 3 values from 2 on"),
        ([-2, 2, 4], [2, 1], "sample 0 of the jagged tensor has 2 values from -2 on"),
        ([0, 2, 4], [2, -1], "sample 1 of the jagged tensor has -1 values from 2 on"),
    ],
)
def test_a_jagged_tensor_whose_offsets_leave_its_values_is_an_error(
    offsets: list[int], lengths: list[int] | None, message: str
) -> None:
    given_lengths = None if lengths is None else torch.tensor(lengths)
    value = nested_tensor_from_jagged(
        torch.arange(4), torch.tensor(offsets), lengths=given_lengths, min_seqlen=0, max_seqlen=4
    )
    with pytest.raises(ValueError, match=f"'clicks'.*'items'.*{message}"):
        parsed(value)


def float_rows(size: int) -> tte.Ragged:
    return tte.Ragged(torch.tensor([]), torch.zeros(size + 1, dtype=torch.int64))


@pytest.mark.parametrize("length", [0, 2])
@pytest.mark.parametrize(
    "value",
    [
        float_rows(2),
        tte.Ragged.from_lists([[], []], torch.float64),
        nested_tensor_from_jagged(torch.tensor([]), torch.tensor([0, 0, 0])),
        torch.sparse_coo_tensor(torch.empty(2, 0), torch.tensor([]), (2, 3)),
    ],
    ids=["ragged", "float64", "jagged", "sparse"],
)
def test_a_batch_without_any_id_may_be_of_floats_as_torch_makes_it(
    value: object, length: int
) -> None:
    bags = parsed(value, length=length)
    assert bags.ids.dtype == torch.int64
    assert bags.ids.tolist() == [-1] * 2 * length
    if not length:
        without = tte.Ragged.from_lists([[], []])  # int64, as from_lists makes it of no number
        weights = value if isinstance(value, torch.Tensor) else without
        assert parsed(value, weights).shape == (2,)


def test_no_sample_at_all_may_be_of_floats_too() -> None:
    assert parsed(torch.tensor([])).ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ([[1, 2], []], "Ragged.from_lists"),
        (torch.tensor([1, 2]).numpy(), "torch.from_numpy"),
        (torch.ones(2, 2).long().numpy(), "Ragged.from_lists"),
    ],
)
def test_lists_and_arrays_are_an_error_that_names_what_takes_them(
    value: object, remedy: str
) -> None:
    with pytest.raises(ValueError, match=f"'clicks'.*{re.escape(remedy)}"):
        parsed(value)
    one = tte.TPUEmbeddingForServing({"f": tte.FeatureConfig(tte.TableConfig(V, 2))})
    with pytest.raises((TypeError, ValueError), match=re.escape(remedy)):
        one({"f": value})

"""Ragged: values and row splits."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torch_tpu_embedding as tte
from torch_tpu_embedding import Ragged

rows_of_ids = st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=5)


def rows_of(ragged):
    bounds = ragged.row_splits.tolist()
    return [ragged.values[a:b].tolist() for a, b in pairwise(bounds)]


@settings(max_examples=50, deadline=None)
@given(rows_of_ids)
def test_lists_come_back_as_they_went_in(rows):
    ragged = Ragged.from_lists(rows)
    assert rows_of(ragged) == rows
    assert ragged.batch_size == len(rows)
    assert (ragged.values.dtype, ragged.row_splits.dtype) == (torch.int64, torch.int64)


@settings(max_examples=50, deadline=None)
@given(rows_of_ids, st.sampled_from([torch.int64, torch.int32]))
def test_lengths_splits_and_lists_are_three_ways_to_say_the_same(rows, dtype):
    listed = Ragged.from_lists(rows)
    lengths = torch.tensor([len(row) for row in rows], dtype=dtype)
    by_lengths = Ragged.from_lengths(listed.values, lengths)
    by_splits = Ragged(listed.values, listed.row_splits.to(dtype))
    assert rows_of(by_lengths) == rows_of(by_splits) == rows
    assert by_splits.batch_size == by_lengths.batch_size == len(rows)


@pytest.mark.parametrize(
    ("rows", "dtype", "expected"),
    [
        ([[1, 2], [3]], None, torch.int64),
        ([[1, 2.5], [3]], None, torch.float32),
        ([[], []], None, torch.int64),
        ([[1], [2]], torch.float32, torch.float32),
        ([[1], [2]], torch.int32, torch.int32),
        ([[], []], torch.float64, torch.float64),
    ],
    ids=str,
)
def test_lists_are_int64_unless_a_value_is_a_float_or_a_dtype_is_given(rows, dtype, expected):
    assert Ragged.from_lists(rows, dtype).values.dtype == expected


def test_no_samples_at_all_is_a_batch_of_none():
    assert Ragged.from_lists([]).batch_size == 0
    assert Ragged(torch.tensor([], dtype=torch.int64), torch.tensor([0])).batch_size == 0


def test_the_tensors_are_kept_and_not_copied():
    values, splits = torch.tensor([4, 5]), torch.tensor([0, 2])
    ragged = Ragged(values, splits)
    assert ragged.values is values
    assert ragged.row_splits is splits


VALUES, SPLITS = torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("values", "splits", "error", "message"),
    [
        ([1, 2, 3], SPLITS, TypeError, "values must be a torch.Tensor, got list"),
        (VALUES, VALUES.numpy(), TypeError, "row_splits must be a torch.Tensor, got ndarray"),
        (VALUES[None], SPLITS, ValueError, "values must be 1-dimensional, got shape [1, 3]"),
        (VALUES, SPLITS[:, None], ValueError, "row_splits must be 1-dimensional, got shape [3, 1]"),
        (VALUES[0], SPLITS, ValueError, "values must be 1-dimensional, got shape []"),
        (VALUES.to("meta"), SPLITS, ValueError, "values must be a host (CPU) tensor, got meta"),
        (VALUES, SPLITS.to("meta"), ValueError, "row_splits must be a host (CPU) tensor, got meta"),
        (
            VALUES,
            SPLITS.float(),
            ValueError,
            "row_splits must be int64 or int32, got torch.float32",
        ),
        (VALUES, SPLITS.bool(), ValueError, "row_splits must be int64 or int32, got torch.bool"),
        (
            VALUES,
            torch.tensor([1, 3]),
            ValueError,
            "begin with 0 and end with the number of values (3)",
        ),
        (VALUES, torch.tensor([0, 2]), ValueError, "the number of values (3), got 0 … 2"),
        (VALUES, torch.tensor([0, 4]), ValueError, "the number of values (3), got 0 … 4"),
        (VALUES, SPLITS[:0], ValueError, "the number of values (3), got no splits at all"),
        (
            VALUES,
            torch.tensor([0, 2, 1, 3]),
            ValueError,
            "must never fall, but row_splits[1] = 2 > row_splits[2] = 1",
        ),
    ],
)
def test_parts_that_do_not_fit_are_an_error_naming_the_part_and_the_reason(
    values, splits, error, message
):
    with pytest.raises(error, match=f"Ragged: .*{re.escape(message)}"):
        Ragged(values, splits)


@pytest.mark.parametrize("lengths", [[1, 1], [2, 2], [], [4, -1]], ids=str)
def test_lengths_that_do_not_cover_the_values_are_an_error(lengths):
    with pytest.raises(ValueError, match="row_splits must"):
        Ragged.from_lengths(VALUES, torch.tensor(lengths, dtype=torch.int64))


@pytest.mark.parametrize(
    "lengths",
    [[1, 2], torch.tensor([1.5, 1.5]), torch.tensor([[1], [2]]), torch.tensor(3)],
    ids=["list", "float", "two_dimensions", "no_dimension"],
)
def test_lengths_that_are_no_flat_tensor_of_integers_are_an_error_that_says_so(lengths):
    with pytest.raises((TypeError, ValueError), match="lengths must be"):
        Ragged.from_lengths(VALUES, lengths)


def test_raggeds_compare_by_identity_and_are_read_only():
    one = Ragged.from_lists([[1]])
    assert one == one
    assert one != Ragged.from_lists([[1]])
    with pytest.raises(AttributeError):
        one.values = VALUES


def test_ragged_is_public():
    assert tte.Ragged is Ragged

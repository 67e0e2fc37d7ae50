"""Ragged: values and row splits."""

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torch_tpu_embedding as tte
from torch_tpu_embedding import Ragged

rows_of_ids = st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=5)


def rows_of(ragged: Ragged) -> list[list[int]]:
    bounds = ragged.row_splits.tolist()
    return [ragged.values[a:b].tolist() for a, b in pairwise(bounds)]


@settings(max_examples=50, deadline=None)
@given(rows_of_ids)
def test_lists_come_back_as_they_went_in(rows: list[list[int]]) -> None:
    ragged = Ragged.from_lists(rows)
    assert rows_of(ragged) == rows
    assert ragged.batch_size == len(rows)
    assert (ragged.values.dtype, ragged.row_splits.dtype) == (torch.int64, torch.int64)


@settings(max_examples=50, deadline=None)
@given(rows_of_ids, st.sampled_from([torch.int64, torch.int32]))
def test_lengths_splits_and_lists_are_three_ways_to_say_the_same(
    rows: list[list[int]], dtype: torch.dtype
) -> None:
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
def test_lists_are_int64_unless_a_value_is_a_float_or_a_dtype_is_given(
    rows: list[list[float]], dtype: torch.dtype | None, expected: torch.dtype
) -> None:
    assert Ragged.from_lists(rows, dtype).values.dtype == expected


def test_no_samples_at_all_is_a_batch_of_none() -> None:
    assert Ragged.from_lists([]).batch_size == 0
    assert Ragged(torch.tensor([], dtype=torch.int64), torch.tensor([0])).batch_size == 0


def test_the_tensors_are_kept_and_not_copied() -> None:
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
    values: list[int] | torch.Tensor,
    splits: torch.Tensor | np.ndarray,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=f"Ragged: .*{re.escape(message)}"):
        Ragged(values, splits)


@pytest.mark.parametrize("lengths", [[1, 1], [2, 2], [], [4, -1]], ids=str)
def test_lengths_that_do_not_cover_the_values_are_an_error(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="row_splits must"):
        Ragged.from_lengths(VALUES, torch.tensor(lengths, dtype=torch.int64))


@pytest.mark.parametrize(
    "lengths",
    [[1, 2], torch.tensor([1.5, 1.5]), torch.tensor([[1], [2]]), torch.tensor(3)],
    ids=["list", "float", "two_dimensions", "no_dimension"],
)
def test_lengths_that_are_no_flat_tensor_of_integers_are_an_error_that_says_so(
    lengths: list[int] | torch.Tensor,
) -> None:
    with pytest.raises((TypeError, ValueError), match="lengths must be"):
        Ragged.from_lengths(VALUES, lengths)


def test_raggeds_compare_by_identity_and_are_read_only() -> None:
    one = Ragged.from_lists([[1]])
    assert one == one
    assert one != Ragged.from_lists([[1]])
    with pytest.raises(AttributeError):
        one.values = VALUES


def test_ragged_is_public() -> None:
    assert tte.Ragged is Ragged


# -- rows of every kind ----------------------------------------------------------------------------

ROW_KINDS = [
    list,
    tuple,
    np.array,
    torch.tensor,
    lambda row: np.array(row, dtype=np.int32),
    lambda row: np.array(row, dtype=">i2"),
    lambda row: np.repeat(np.array(row, dtype=np.uint8), 2)[::2],
    lambda row: np.array(row, dtype=np.uint64),
    lambda row: torch.tensor(row, dtype=torch.uint16),
    lambda row: [np.int16(value) for value in row],
    lambda row: [torch.tensor(value) for value in row],
]


@settings(max_examples=60, deadline=None)
@given(rows_of_ids, st.data())
def test_a_row_of_ids_may_be_of_any_kind(rows: list[list[int]], data: st.DataObject) -> None:
    made = Ragged.from_lists([data.draw(st.sampled_from(ROW_KINDS))(row) for row in rows])
    assert made.to_lists() == rows
    assert made.values.dtype == torch.int64


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [
        ([np.array([0.5, 0.25], dtype=np.float32)], torch.float32),
        ([np.array([0.5, 0.25])], torch.float64),
        ([torch.tensor([0.5, 0.25], dtype=torch.float16)], torch.float16),
        ([[np.float32(0.5), 0.25]], torch.float32),
        ([[0.5, 0.25]], torch.float32),
        ([(0.5, 0.25), np.array([1])], torch.float32),
        ([[1], np.array([0.5])], torch.float64),
        ([np.array([]), [1, 2]], torch.int64),
        ([torch.tensor([]), []], torch.int64),
        ([[True], [False]], torch.bool),
    ],
)
def test_values_keep_their_type_and_a_row_without_any_has_no_say(
    rows: list[Any], dtype: torch.dtype
) -> None:
    made = Ragged.from_lists(rows)
    assert made.values.dtype == dtype
    assert made.to_lists() == [[float(value) for value in row] for row in rows]


def test_a_float_in_a_list_is_not_rounded_on_its_way_to_float64() -> None:
    assert Ragged.from_lists([[0.1]], torch.float64).to_lists() == [[0.1]]


@pytest.mark.parametrize("rows", [torch.arange(6).view(2, 3), torch.arange(6).view(2, 3).numpy()])
def test_the_rows_of_a_matrix_count_whole(rows: torch.Tensor | np.ndarray) -> None:
    assert Ragged.from_lists(rows).to_lists() == [[0, 1, 2], [3, 4, 5]]
    assert Ragged.from_lists(rows.T).to_lists() == [[0, 3], [1, 4], [2, 5]]
    assert Ragged.from_lists(rows[:, :0]).to_lists() == [[], []]


def test_gradients_go_through_the_rows() -> None:
    weights = torch.ones(3, requires_grad=True)
    Ragged.from_lists([weights[:2], weights[2:]]).values.square().sum().backward()
    assert weights.grad.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([1, 2], TypeError, "row 0 is 1 (int), not a list, an array or a tensor of numbers"),
        (["12"], TypeError, "row 0 is '12' (str), not a list"),
        ([[1], [2, None]], TypeError, "row 1, position 1 is None (NoneType), not a number"),
        ([[1], ["2"]], TypeError, "row 1, position 0 is '2' (str), not a number"),
        ([[1j]], TypeError, "row 0, position 0 is 1j (complex), not a number"),
        ([[[1]], [[2, 3]]], TypeError, "row 0, position 0 is [1] (list), not a number"),
        ([np.array(["a"])], TypeError, "row 0 must hold numbers that torch knows, got <U1"),
        ([[1], torch.ones(1, device="meta")], TypeError, "row 1 must be a dense host (CPU) tensor"),
        ([torch.ones(1, 1)], ValueError, "row 0 must be 1-dimensional, got shape [1, 1]"),
        (np.ones(3), ValueError, "must have shape [B, values], got [3]"),
        ([[2**63]], ValueError, "row 0, position 0 is 9223372036854775808, too large for int64"),
        ([np.array([2**63], dtype=np.uint64)], ValueError, "row 0 holds 9223372036854775808, too"),
    ],
)
def test_rows_that_are_no_numbers_are_an_error_naming_the_place(
    rows: list[Any] | np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^Ragged.from_lists: .*{re.escape(message)}"):
        Ragged.from_lists(rows)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (0.5, torch.int64),
        (300, torch.uint8),
        (-1, torch.uint8),
        (2**40, torch.int32),
        (2, torch.bool),
    ],
)
def test_a_number_that_is_none_of_the_dtype_is_an_error_and_never_cut_or_wrapped(
    value: float, dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match=f"{value} is no number of {dtype}; choose another dtype"):
        Ragged.from_lists([[1], [value]], dtype)


# -- a sequence of samples -------------------------------------------------------------------------


def same(found: Ragged, wanted: list[list[int]]) -> None:
    assert isinstance(found, Ragged)
    assert found.to_lists() == wanted


@settings(max_examples=60, deadline=None)
@given(rows_of_ids, st.data(), st.sampled_from([torch.int64, torch.int32]))
def test_it_indexes_as_the_list_of_its_rows_does(
    rows: list[list[int]], data: st.DataObject, dtype: torch.dtype
) -> None:
    listed = Ragged.from_lists(rows)
    ragged = Ragged(listed.values, listed.row_splits.to(dtype))
    assert len(ragged) == len(rows)
    assert [row.tolist() for row in ragged] == rows
    some = data.draw(st.slices(len(rows)))
    same(ragged[some], rows[some])
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    kept = [row for row, keep in zip(rows, mask, strict=True) if keep]
    same(ragged[torch.tensor(mask, dtype=torch.bool)], kept)
    same(ragged[np.array(mask, dtype=bool)], kept)
    if rows:
        at = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=6))
        for index in (
            at,
            tuple(at),
            torch.tensor(at, dtype=torch.int32),
            np.array(at, dtype=np.int64),
        ):
            same(ragged[index], [rows[n] for n in at])
        for n in at:
            for index in (n, np.int64(n), torch.tensor(n)):
                assert ragged[index].tolist() == rows[n]


@settings(max_examples=40, deadline=None)
@given(st.lists(rows_of_ids, min_size=1, max_size=4))
def test_cat_joins_what_slices_cut(parts: list[list[list[int]]]) -> None:
    joined = Ragged.cat([Ragged.from_lists(rows) for rows in parts])
    same(joined, [row for rows in parts for row in rows])
    same(Ragged.cat([joined[:2], joined[2:]]), joined.to_lists())


def test_the_positions_of_a_process_take_its_samples_of_a_batch() -> None:
    batch = Ragged.from_lists([[1], [], [2, 3]])
    mine, real = tte.distributed.local_positions(len(batch), 4)
    same(batch[mine], [[1], [], [2, 3], [1]])
    same(batch[mine][real], [[1], [], [2, 3]])


def test_nothing_to_join_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^Ragged.cat: give at least one Ragged"):
        Ragged.cat([])


@pytest.mark.parametrize(
    "index",
    [
        3,
        -4,
        1.0,
        None,
        "a",
        torch.tensor([3]),
        [0.5],
        [[1]],
        torch.ones(2, dtype=torch.bool),
        [True],
    ],
    ids=str,
)
def test_an_index_of_no_sample_is_an_index_error(index: Any) -> None:
    with pytest.raises(IndexError):
        Ragged.from_lists([[1], [], [2]])[index]


def test_one_sample_shares_the_memory_and_several_are_a_copy() -> None:
    ragged = Ragged.from_lists([[1, 2], [3]])
    ragged[0][0] = 9
    assert ragged.values.tolist() == [9, 2, 3]
    ragged[[0]].values[0] = 7
    assert ragged.values.tolist() == [9, 2, 3]


def test_it_prints_its_size_and_not_its_values() -> None:
    assert repr(Ragged.from_lists([[0.5], [], []])) == "Ragged(3 samples, 1 values, torch.float32)"


def test_a_data_loader_pins_both_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone()
    )
    ragged = Ragged.from_lists([[1, 2], [3]])
    same(torch.utils.data._utils.pin_memory.pin_memory(ragged), [[1, 2], [3]])
    assert pinned[0] is ragged.values
    assert pinned[1] is ragged.row_splits

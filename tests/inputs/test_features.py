"""parse(): one feature's input, of any kind, becomes checked bags of ids with their gains."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backends import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.nested import nested_tensor_from_jagged

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.inputs.bags import NO_ID, Bags, parse

V = 10


def parsed(
    value: Any,
    weights: Any = None,
    *,
    combiner: str = "sum",
    length: int = 0,
    **options: tuple[int, ...] | str | int,
) -> Bags:
    table = tte.TableConfig(V, 2, combiner=combiner, name="items")
    config = tte.FeatureConfig(table, max_sequence_length=length, name="clicks")
    resolved = resolve(config, None)
    return parse(resolved.features[0], resolved.tables[0], value, weights, **options)


# -- one batch in every kind of input --------------------------------------------------------------


def ragged(rows: list[list[float]], dtype: torch.dtype = torch.int64) -> tte.Ragged:
    return tte.Ragged.from_lists(rows, dtype)


def ragged_int32_splits(rows: list[list[float]], dtype: torch.dtype = torch.int64) -> tte.Ragged:
    made = ragged(rows, dtype)
    return tte.Ragged(made.values, made.row_splits.to(torch.int32))


def jagged(rows: list[list[float]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    made = ragged(rows, dtype)
    return nested_tensor_from_jagged(made.values, made.row_splits)


def narrowed(rows: list[list[float]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Jagged with garbage before the first sample, between the samples and after the last."""
    values, starts = [77], []
    for row in rows:
        starts.append(len(values))
        values += [*row, 77, 78]
    offsets = tensor([*starts, len(values)])
    lengths = tensor([len(row) for row in rows])
    return nested_tensor_from_jagged(tensor(values, dtype=dtype), offsets, lengths=lengths)


def entries(rows: list[list[float]]) -> list[tuple[int, int, float]]:
    """(sample, position, value) of each entry."""
    return [(b, j, value) for b, row in enumerate(rows) for j, value in enumerate(row)]


def coo(
    triples: list[tuple[int, int, float]] | Any,
    size: tuple[int, int],
    dtype: torch.dtype = torch.int64,
) -> torch.Tensor:
    triples = list(triples)
    indices = tensor([[b for b, _, _ in triples], [j for _, j, _ in triples]], dtype=torch.int64)
    return torch.sparse_coo_tensor(indices, tensor([v for _, _, v in triples], dtype=dtype), size)


def sparse(rows: list[list[float]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return coo(entries(rows), (len(rows), 6), dtype)


def sparse_unsorted(rows: list[list[float]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return coo(reversed(entries(rows)), (len(rows), 6), dtype)


def sparse_coalesced(rows: list[list[float]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return sparse_unsorted(rows, dtype).coalesce()


KINDS = [
    ragged,
    ragged_int32_splits,
    jagged,
    narrowed,
    sparse,
    sparse_unsorted,
    sparse_coalesced,
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def assert_bags(bags: Bags, ids: list[int], bag: list[int], gain: list[Any]) -> None:
    assert (bags.ids.dtype, bags.bag.dtype, bags.gain.dtype) == (
        torch.int64,
        torch.int64,
        torch.float32,
    )
    assert bags.ids.tolist() == ids
    assert bags.bag.tolist() == bag
    torch.testing.assert_close(bags.gain, tensor(gain, dtype=torch.float32))


@each_kind
@pytest.mark.parametrize(
    "rows",
    [[[3, 1], [], [1, 1, 9]], [[], [], []], [[], [0], []], [[5], [6], [7]], [[1, 2, 3, 4], [], []]],
    ids=str,
)
def test_every_kind_of_input_gives_the_same_bags(
    kind: Callable[..., Any], rows: list[list[int]]
) -> None:
    bags = parsed(kind(rows))
    assert bags.shape == (3,)
    ids = [v for _, _, v in entries(rows)]
    assert_bags(bags, ids, [b for b, _, _ in entries(rows)], [1.0] * len(ids))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
@each_kind
def test_ids_of_every_integer_type_are_taken(kind: Callable[..., Any], dtype: torch.dtype) -> None:
    assert_bags(parsed(kind([[3, 9], [], [0]], dtype)), [3, 9, 0], [0, 0, 2], [1.0, 1.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
@pytest.mark.parametrize("shape", [(3,), (3, 1)], ids=str)
def test_dense_ids_are_one_direct_id_per_sample(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    bags = parsed(tensor([4, 0, 9], dtype=dtype).view(shape))
    assert bags.ids.tolist() == [4, 0, 9]
    assert bags.ids.dtype == torch.int64
    assert (bags.bag, bags.gain, bags.shape) == (None, None, (3,))


def test_a_column_of_a_larger_tensor_is_a_dense_feature() -> None:
    assert parsed(torch.arange(9).view(3, 3)[:, 1]).ids.tolist() == [1, 4, 7]


def test_a_jagged_tensor_may_begin_and_end_inside_its_values() -> None:
    values, offsets = tensor([77, 1, 2, 3, 77]), tensor([1, 3, 3, 4])
    assert_bags(parsed(nested_tensor_from_jagged(values, offsets)), [1, 2, 3], [0, 0, 2], [1.0] * 3)


def test_a_narrowed_dense_tensor_is_a_jagged_one() -> None:
    padded = tensor([[77, 1, 2, 77], [77, 77, 77, 77], [3, 4, 5, 77]])
    view = torch.nested.narrow(padded, 1, tensor([1, 0, 0]), tensor([2, 0, 3]), layout=torch.jagged)
    assert view.lengths() is not None
    assert_bags(parsed(view), [1, 2, 3, 4, 5], [0, 0, 2, 2, 2], [1.0] * 5)


def test_sparse_entries_at_one_place_are_two_ids_and_never_added_up() -> None:
    twice = coo([(1, 0, 5), (0, 1, 2), (1, 0, 3), (0, 0, 9)], (2, 2))
    assert_bags(parsed(twice), [9, 2, 5, 3], [0, 0, 1, 1], [1.0] * 4)


def test_gaps_in_the_columns_do_not_matter_to_a_pooled_feature() -> None:
    assert_bags(
        parsed(coo([(0, 5, 1), (2, 3, 2)], (3, 6)), combiner="mean"), [1, 2], [0, 2], [1.0, 1.0]
    )


def test_any_batch_size_is_taken_unless_one_is_fixed() -> None:
    for rows in ([[1]], [[1], [2]]):
        assert parsed(ragged(rows)).shape == (len(rows),)
    assert parsed(ragged([[1], [2]]), batch_size=2).shape == (2,)


def test_parsing_never_changes_the_input() -> None:
    value = sparse_unsorted([[3, 1], [2]])
    weights = sparse_unsorted([[0.5, 1.0], [2.0]], torch.float32)
    copies = [(t._indices().clone(), t._values().clone()) for t in (value, weights)]
    parsed(value, weights, combiner="sqrtn")
    dense = tensor([3, 99])
    parsed(dense, id_bounds="drop")
    assert dense.tolist() == [3, 99]
    for held, (indices, values) in zip((value, weights), copies, strict=True):
        assert not held.is_coalesced()
        assert torch.equal(held._indices(), indices)
        assert torch.equal(held._values(), values)


# -- gains -----------------------------------------------------------------------------------------


def gains_of(rows: list[list[float]], combiner: str) -> list[Any]:
    """The factors of TF's definition of the combiners, in float64."""
    gains = []
    for row in rows:
        w = np.array(row, dtype=np.float64)
        divisor = {"sum": 1.0, "mean": w.sum(), "sqrtn": math.sqrt((w * w).sum())}[combiner]
        gains += [0.0] * len(w) if divisor == 0 else list(w / divisor)
    return gains


@pytest.mark.parametrize(
    ("combiner", "weights", "gains"),
    [
        ("sum", None, [1, 1]),
        ("mean", None, [0.5, 0.5]),
        ("sqrtn", None, [0.5**0.5, 0.5**0.5]),
        ("sum", [0.5, 0.25], [0.5, 0.25]),
        ("mean", [0.5, 0.25], [2 / 3, 1 / 3]),
        ("sqrtn", [0.5, 0.25], [2 / 5**0.5, 1 / 5**0.5]),
        ("sum", [2.0, -1.0], [2, -1]),
        ("mean", [2.0, -1.0], [2, -1]),
        ("sqrtn", [2.0, -1.0], [2 / 5**0.5, -1 / 5**0.5]),
        ("sum", [1.0, -1.0], [1, -1]),
        ("mean", [1.0, -1.0], [0, 0]),
        ("sqrtn", [1.0, -1.0], [0.5**0.5, -(0.5**0.5)]),
        ("sum", [0.0, 0.0], [0, 0]),
        ("mean", [0.0, 0.0], [0, 0]),
        ("sqrtn", [0.0, 0.0], [0, 0]),
        ("mean", [-1.0, -3.0], [0.25, 0.75]),
    ],
)
def test_the_gains_of_a_bag_of_two(
    combiner: str, weights: list[float] | None, gains: list[float]
) -> None:
    weights = weights and ragged([weights], torch.float32)
    bags = parsed(ragged([[0, 1]]), weights, combiner=combiner)
    assert_bags(bags, [0, 1], [0, 0], gains)


quarters = st.integers(-8, 8).map(lambda n: n / 4)  # their sums are exact, so zero is zero


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(0, V - 1), quarters), max_size=5), min_size=1, max_size=4
    ),
    kind=st.sampled_from(KINDS),
    combiner=st.sampled_from(["sum", "mean", "sqrtn"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16]),
    weighted=st.booleans(),
)
def test_gains_are_those_of_the_definition_for_every_kind(
    rows: list[list[tuple[int, float]]],
    kind: Callable[..., Any],
    combiner: str,
    dtype: torch.dtype,
    weighted: bool,
) -> None:
    ids = [[i for i, _ in row] for row in rows]
    w = [[x if weighted else 1.0 for _, x in row] for row in rows]
    bags = parsed(kind(ids), kind(w, dtype) if weighted else None, combiner=combiner)
    flat = [(b, i) for b, row in enumerate(ids) for i in row]
    assert_bags(bags, [i for _, i in flat], [b for b, _ in flat], gains_of(w, combiner))


@pytest.mark.parametrize("ids", [ragged, jagged, narrowed])
@pytest.mark.parametrize("weights", [ragged, ragged_int32_splits, jagged, narrowed])
def test_ragged_and_jagged_are_one_kind_and_may_be_mixed(
    ids: Callable[..., Any], weights: Callable[..., Any]
) -> None:
    bags = parsed(ids([[1, 2], [], [3]]), weights([[0.5, 2.0], [], [4.0]], torch.float32))
    assert_bags(bags, [1, 2, 3], [0, 0, 2], [0.5, 2.0, 4.0])


def test_weights_of_unsorted_sparse_ids_stay_with_their_ids() -> None:
    places = [(1, 1), (0, 0), (1, 0), (1, 0)]
    ids = coo([(*place, i) for place, i in zip(places, [5, 6, 7, 8], strict=True)], (2, 2))
    w = coo(
        [(*place, x) for place, x in zip(places, [0.5, 0.6, 0.7, 0.8], strict=True)],
        (2, 2),
        torch.float32,
    )
    assert_bags(parsed(ids, w), [6, 7, 8, 5], [0, 1, 1, 1], [0.6, 0.7, 0.8, 0.5])


# -- sequences -------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize(
    ("length", "places"),
    [
        (1, [3, NO_ID, 7]),
        (2, [3, 1, NO_ID, NO_ID, 7, 8]),
        (4, [3, 1, NO_ID, NO_ID, NO_ID, NO_ID, NO_ID, NO_ID, 7, 8, 9, NO_ID]),
    ],
)
def test_a_sequence_is_cut_and_padded_to_its_length(
    kind: Callable[..., Any], length: int, places: list[int]
) -> None:
    bags = parsed(kind([[3, 1], [], [7, 8, 9]]), length=length)
    assert bags.ids.tolist() == places
    assert (bags.bag, bags.gain, bags.shape) == (None, None, (3, length))


@given(
    st.lists(st.lists(st.integers(0, V + 2), max_size=5), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_a_ragged_sequence_is_what_a_loop_over_its_samples_gives(
    rows: list[list[int]], length: int
) -> None:
    bags = parsed(ragged(rows), length=length, id_bounds="drop")
    cut = [[*row[:length], *[NO_ID] * (length - len(row))] for row in rows]
    wanted = [i if i < V else NO_ID for row in cut for i in row]
    assert bags.ids.tolist() == wanted
    assert bags.num_ids == sum(i != NO_ID for i in wanted)
    assert bags.num_dropped == sum(i >= V for row in rows for i in row)


def test_gaps_in_a_sparse_sequence_stay_places_without_an_id() -> None:
    gappy = coo([(1, 2, 6), (0, 1, 4), (1, 0, 5), (0, 9, 3)], (2, 10))
    assert parsed(gappy, length=3).ids.tolist() == [NO_ID, 4, NO_ID, 5, NO_ID, 6]


def test_two_ids_at_one_place_of_a_sequence_are_an_error_naming_the_place() -> None:
    twice = coo([(1, 1, 4), (0, 0, 1), (1, 1, 5)], (2, 3))
    message = (
        r"^feature 'clicks' \(table 'items'\): two ids at sample 1, position 1 of a seq.*column"
    )
    with pytest.raises(ValueError, match=message):
        parsed(twice, length=2)


def test_two_ids_at_one_place_that_is_cut_off_are_no_error() -> None:
    twice = coo([(0, 0, 1), (0, 2, 4), (0, 2, 5)], (1, 3))
    assert parsed(twice, length=2).ids.tolist() == [1, NO_ID]


# -- several bags per sample -----------------------------------------------------------------------


def rank3(
    triples: dict[tuple[int, int, int], float],
    size: tuple[int, int, int] = (2, 2, 4),
    dtype: torch.dtype = torch.int64,
) -> torch.Tensor:
    """Sparse, from {(sample, place, position): value}, in the order given."""
    return torch.sparse_coo_tensor(
        tensor(list(triples)).T, tensor(list(triples.values()), dtype=dtype), size
    )


def test_dense_ids_of_higher_rank_are_one_activation_for_each() -> None:
    bags = parsed(tensor([[[1], [2]], [[3], [4]], [[5], [6]]]), batch_size=3)
    assert (bags.ids.tolist(), bags.bag, bags.shape) == ([1, 2, 3, 4, 5, 6], None, (3, 2))


def test_sparse_ids_of_higher_rank_are_combined_over_the_last_dimension() -> None:
    ids = {(1, 1, 0): 5, (0, 1, 3): 1, (0, 1, 0): 2, (1, 0, 2): 4}
    bags = parsed(rank3(ids), combiner="mean", batch_size=2)
    assert bags.shape == (2, 2)
    assert_bags(bags, [2, 1, 4, 5], [1, 1, 2, 3], [0.5, 0.5, 1.0, 1.0])
    weights = rank3(dict(zip(ids, [8.0, 3.0, 1.0, 2.0], strict=True)), dtype=torch.float32)
    bags = parsed(rank3(ids), weights, combiner="mean")
    assert_bags(bags, [2, 1, 4, 5], [1, 1, 2, 3], [0.25, 0.75, 1.0, 1.0])


def test_an_id_outside_the_vocabulary_is_placed_within_its_sample() -> None:
    with pytest.raises(
        ValueError, match="id 12 at sample 1, output position 0, position 3 is outside"
    ):
        parsed(rank3({(1, 0, 3): 12}))
    with pytest.raises(ValueError, match="id -1 at sample 1, output position 0 is outside"):
        parsed(tensor([[[1], [2]], [[-1], [4]]]))


def test_a_sequence_of_higher_rank_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"max_sequence_length=2.* sparse ids of .*got rank 3"):
        parsed(rank3({(0, 0, 0): 1}), length=2)


@pytest.mark.parametrize("kind", [ragged, jagged, narrowed])
def test_ragged_rows_fill_an_output_shape_one_bag_or_one_sequence_each(
    kind: Callable[..., Any],
) -> None:
    rows = kind([[1, 2], [], [3], [4]])
    bags = parsed(rows, output_shape=(2, 2))
    assert bags.shape == (2, 2)
    assert_bags(bags, [1, 2, 3, 4], [0, 0, 2, 3], [1.0] * 4)
    sequences = parsed(rows, output_shape=(4, 2))
    assert (sequences.bag, sequences.shape) == (None, (4, 2))
    assert sequences.ids.tolist() == [1, 2, NO_ID, NO_ID, 3, NO_ID, 4, NO_ID]


@pytest.mark.parametrize(
    ("value", "shape", "got"),
    [
        (ragged([[1], [2]]), (3,), r"ragged input of 2 rows .*shape \[3\]"),
        (ragged([[1], [2]]), (1,), r"ragged input of 2 rows .*shape \[1\]"),
        (tensor([1, 2]), (3,), r"\[2, …\] does not fill the output shape \[3\]"),
        (tensor([[1], [2]]), (2, 1), r"\[2, …\] does not fill the output shape \[2, 1\]"),
        (rank3({(0, 0, 0): 1}), (4,), r"\[2, 2, …\] does not fill the output shape \[4\]"),
    ],
    ids=range(5),
)
def test_an_input_that_cannot_fill_the_output_shape_is_an_error_naming_both(
    value: torch.Tensor | tte.Ragged, shape: tuple[int, ...], got: str
) -> None:
    with pytest.raises(ValueError, match=f"'clicks'.*'items'.*{got}"):
        parsed(value, output_shape=shape)


# -- ids outside the vocabulary --------------------------------------------------------------------

PLACE = r"feature 'clicks' \(table 'items'\): id {} at {} is outside \[0, 10\)"
REMEDY = r"correct the ids, raise vocabulary_size, or choose id_bounds='drop' or 'warn_and_drop'"


@pytest.mark.parametrize("wrong", [-1, V, 2**40, -(2**40)])
@pytest.mark.parametrize("length", [0, 2], ids=["pooled", "sequence"])
@each_kind
def test_an_id_outside_the_vocabulary_names_feature_table_value_place_and_remedy(
    kind: Callable[..., Any], length: int, wrong: int
) -> None:
    place = PLACE.format(wrong, "sample 2, position 1")
    with pytest.raises(ValueError, match=f"^{place}; {REMEDY}$"):
        parsed(kind([[3, 1], [], [7, wrong, 2]]), length=length)


@pytest.mark.parametrize("wrong", [-1, V, 2**40])
def test_a_dense_id_outside_the_vocabulary_names_its_sample(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"^{PLACE.format(wrong, 'sample 1')}; {REMEDY}$"):
        parsed(tensor([0, wrong, 9]))


def test_of_several_ids_outside_the_first_is_named_and_the_others_are_counted() -> None:
    message = PLACE.format(12, "sample 0, position 1") + r" \(2 more like it\)"
    with pytest.raises(ValueError, match=message):
        parsed(sparse_unsorted([[1, 12], [-3, 10]]))
    with pytest.raises(ValueError, match=r"id -1 at sample 0 .* \(1 more like it\)"):
        parsed(tensor([-1, 0, 10]))


def test_the_first_and_the_last_id_of_the_vocabulary_are_inside() -> None:
    assert parsed(tensor([0, V - 1])).ids.tolist() == [0, V - 1]


def test_an_id_beyond_the_cut_of_a_sequence_is_checked_too() -> None:
    with pytest.raises(ValueError, match="id 99 at sample 0, position 1"):
        parsed(ragged([[1, 99]]), length=1)


@pytest.mark.parametrize("id_bounds", ["drop", "warn_and_drop"])
@each_kind
class TestDropping:
    """An id outside the vocabulary counts as not being there."""

    @staticmethod
    def dropped(id_bounds: str, *args: torch.Tensor | tte.Ragged, **options: str | int) -> Bags:
        if id_bounds == "drop":
            return parsed(*args, id_bounds=id_bounds, **options)
        with pytest.warns(RuntimeWarning, match=r"'clicks' .*'items'.* is outside .*; dropped$"):
            return parsed(*args, id_bounds=id_bounds, **options)

    @pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
    def test_a_pooled_feature_is_as_if_the_ids_were_not_given(
        self, kind: Callable[..., Any], id_bounds: str, combiner: str
    ) -> None:
        bags = self.dropped(id_bounds, kind([[-1, 3], [10, 11], [1, 99, 2]]), combiner=combiner)
        without = parsed(kind([[3], [], [1, 2]]), combiner=combiner)
        assert_bags(bags, without.ids.tolist(), without.bag.tolist(), without.gain.tolist())
        assert bags.shape == (3,)

    def test_their_weights_leave_the_divisor(
        self, kind: Callable[..., Any], id_bounds: str
    ) -> None:
        ids, w = kind([[-1, 3, 4], [99]]), kind([[8.0, 1.0, 3.0], [1.0]], torch.float32)
        bags = self.dropped(id_bounds, ids, w, combiner="mean")
        assert_bags(bags, [3, 4], [0, 0], [0.25, 0.75])

    def test_a_sequence_keeps_an_empty_place(
        self, kind: Callable[..., Any], id_bounds: str
    ) -> None:
        bags = self.dropped(id_bounds, kind([[3, -1, 4], [10]]), length=3)
        assert bags.ids.tolist() == [3, NO_ID, 4, NO_ID, NO_ID, NO_ID]


@pytest.mark.parametrize("id_bounds", ["drop", "warn_and_drop"])
def test_a_dropped_dense_id_is_a_sample_without_id(id_bounds: str) -> None:
    bags = TestDropping.dropped(id_bounds, tensor([3, -7, 10, 0]))
    assert bags.ids.tolist() == [3, NO_ID, NO_ID, 0]


def test_the_warning_names_the_first_place_and_counts_the_others() -> None:
    with pytest.warns(
        RuntimeWarning, match=PLACE.format(11, "sample 1, position 0") + r" \(1 more like it\)"
    ):
        parsed(ragged([[1], [11, 12]]), id_bounds="warn_and_drop")


# -- wrong input -----------------------------------------------------------------------------------


def hybrid() -> torch.Tensor:
    return torch.sparse_coo_tensor(tensor([[0], [0]]), tensor([[1, 2]]), (1, 1, 2))


def jagged_rank3() -> torch.Tensor:
    return nested_tensor_from_jagged(torch.ones(2, 2, dtype=torch.int64), tensor([0, 1, 2]))


def jagged_on(device: str, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    values = torch.ones(1, dtype=dtype, device=device)
    return nested_tensor_from_jagged(values, tensor([0, 1], device=device))


def sparse_on(device: str, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    indices = torch.zeros(2, 1, dtype=torch.int64, device=device)
    values = torch.ones(1, dtype=dtype, device=device)
    return torch.sparse_coo_tensor(indices, values, (1, 1), device=device)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tensor([1.0]),
            "ids must be integers (int64 or int32), got torch.float32; convert",
        ),
        (lambda: tensor([True]), "ids must be integers (int64 or int32), got torch.bool; convert"),
        (lambda: tensor([1j]), "ids must be integers (int64 or int32), got torch.complex64"),
        (lambda: ragged([[1]], torch.float32), "ids must be integers (int64 or int32), got"),
        (
            lambda: ragged([[1]], torch.bool),
            "ids must be integers (int64 or int32), got torch.bool",
        ),
        (lambda: jagged([[1]], torch.float64), "ids must be integers (int64 or int32), got"),
        (lambda: sparse([[1]], torch.float16), "ids must be integers (int64 or int32), got"),
        (lambda: tensor(1), "a dense feature must have shape [B], [B, 1]"),
        (lambda: tensor(1), "got []"),
        (lambda: torch.ones(3, 2).long(), "got [3, 2]"),
        (lambda: torch.ones(2, 2).long(), "as Ragged or sparse"),
        (lambda: torch.ones(2, 1, 3).long(), "got [2, 1, 3]"),
        (lambda: torch.ones(2, 0).long(), "got [2, 0]"),
        (lambda: tensor([1], device="meta"), "must be a host (CPU) tensor, got one on meta; leave"),
        (
            lambda: tensor([1]).to(tte.runtime.device()),
            f"must be a host (CPU) tensor, got one on {DEVICE}:0; leave ids on",
        ),
        (lambda: jagged_on("meta"), "must be a host (CPU) tensor, got one on meta"),
        (lambda: sparse_on("meta"), "must be a host (CPU) tensor, got one on meta"),
        (lambda: None, "expected a dense tensor, a sparse COO tensor, a Ragged or a jagged"),
        (lambda: None, "of ids, got NoneType"),
        (lambda: [1, 2], "of ids, got list"),
        (lambda: 3, "of ids, got int"),
        (lambda: np.array([1]), "of ids, got ndarray"),
        (
            lambda: torch.eye(2).long().to_sparse_csr(),
            "of ids, got a tensor with layout torch.sparse_csr",
        ),
        (hybrid, "a sparse tensor must have shape [B, width]"),
        (hybrid, "with scalar entries, got shape [1, 1, 2] with 2 sparse"),
        (
            lambda: torch.sparse_coo_tensor(tensor([[0]]), tensor([1]), (1,)),
            "with scalar entries, got shape [1] with 1 sparse",
        ),
        (jagged_rank3, "a jagged tensor must have two dimensions [B, ids], got 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_an_input_of_the_wrong_kind_is_an_error_naming_feature_table_and_what_was_got(
    make: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"'clicks'.*'items'.*{re.escape(message)}"):
        parsed(make())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_that_is_not_jagged_is_an_error_asking_for_the_jagged_layout() -> None:
    strided = torch.nested.nested_tensor([tensor([1])], layout=torch.strided)
    with pytest.raises(ValueError, match=r"'clicks'.*layout=torch.jagged.* got .*tensor"):
        parsed(strided)


def test_a_dense_sequence_is_an_error_naming_the_kinds_that_are_taken() -> None:
    message = r"\(max_sequence_length=4\) takes Ragged, jagged or sparse ids, got a dense tensor"
    with pytest.raises(ValueError, match=message):
        parsed(tensor([1, 2]), length=4)


@pytest.mark.parametrize("length", [0, 2], ids=["pooled", "sequence"])
@each_kind
def test_another_batch_size_is_an_error_naming_both_and_the_remedy(
    kind: Callable[..., Any], length: int
) -> None:
    message = "'clicks'.*'items'.*got 2 samples, .* batch_size=3; pad or drop the last batch"
    with pytest.raises(ValueError, match=message):
        parsed(kind([[1], [2]]), length=length, batch_size=3)


@pytest.mark.parametrize("shape", [(2,), (2, 1)], ids=str)
def test_another_number_of_dense_samples_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"got 2 samples, .* batch_size=3"):
        parsed(torch.ones(shape).long(), batch_size=3)


# -- wrong weights ---------------------------------------------------------------------------------

IDS = [[1, 2], [], [3]]
W = [[0.5, 1.0], [], [2.0]]


@pytest.mark.parametrize("ids", [tensor([1, 2]), tensor([[1], [2]])], ids=["[B]", "[B, 1]"])
def test_weights_for_dense_ids_are_an_error_with_a_remedy(ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"dense feature.*pass None .*Ragged or sparse"):
        parsed(ids, torch.ones(ids.shape))


@each_kind
def test_weights_for_a_sequence_are_an_error_with_a_remedy(kind: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"weights were given for a sequence .*pass None"):
        parsed(kind(IDS), kind(W, torch.float32), length=2)


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        (ragged, sparse(W, torch.float32), "must be a Ragged or jagged tensor, .*got Tensor"),
        (ragged, torch.ones(3), "must be a Ragged or jagged tensor, .*got Tensor"),
        (ragged, W, "must be a Ragged or jagged tensor, .*got list"),
        (jagged, sparse(W, torch.float32), "must be a Ragged or jagged tensor, .*got Tensor"),
        (jagged, np.ones(3), "must be a Ragged or jagged tensor, .*got ndarray"),
        (sparse, ragged(W, torch.float32), "must be a sparse COO tensor, .*got Ragged"),
        (sparse, jagged(W, torch.float32), "must be a sparse COO tensor, .*got NestedTensor"),
        (sparse, torch.ones(3, 6), "must be a sparse COO tensor, .*got Tensor"),
        (sparse, 1.0, "must be a sparse COO tensor, .*got float"),
    ],
)
def test_weights_of_another_kind_than_the_ids_are_an_error_naming_both(
    ids: Callable[..., Any], weights: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"'clicks'.*'items'.*weights {message}"):
        parsed(ids(IDS), weights)


@pytest.mark.parametrize("kind", [ragged, jagged, narrowed])
@pytest.mark.parametrize(
    ("weights", "place"),
    [
        ([[0.5], [1.0], [2.0]], "sample 0 has 2 ids and 1 weights"),
        ([[0.5, 1.0], [], []], "sample 2 has 1 ids and 0 weights"),
        ([[0.5, 1.0], [2.0]], "sample 1 has 0 ids and 1 weights"),
        ([[0.5, 1.0], [], [2.0], []], "4 samples instead of 3"),
        ([[0.5, 1.0], []], "2 samples instead of 3"),
    ],
)
def test_weights_with_other_row_splits_are_an_error_naming_the_first_difference(
    kind: Callable[..., Any], weights: list[list[float]], place: str
) -> None:
    with pytest.raises(ValueError, match=f"'clicks'.*row splits of the ids: {place}"):
        parsed(kind(IDS), kind(weights, torch.float32))


@pytest.mark.parametrize(
    "weights",
    [
        coo([(0, 0, 1.0), (0, 1, 1.0), (2, 1, 1.0)], (3, 6), torch.float32),
        coo([(0, 1, 1.0), (0, 0, 1.0), (2, 0, 1.0)], (3, 6), torch.float32),
        coo([(0, 0, 1.0), (0, 1, 1.0)], (3, 6), torch.float32),
        coo([(0, 0, 1.0), (0, 1, 1.0), (2, 0, 1.0)], (3, 7), torch.float32),
    ],
    ids=["other_place", "other_order", "fewer", "other_width"],
)
def test_sparse_weights_at_other_places_are_an_error_and_never_paired_by_position(
    weights: torch.Tensor,
) -> None:
    message = (
        r"sparse weights must have the shape and the indices of the ids, in the same order; "
        rf"got shape \[3, {weights.shape[1]}\] with {weights._nnz()} entries for ids of .*\[3, 6\] with 3"
    )
    with pytest.raises(ValueError, match=message):
        parsed(sparse(IDS), weights)


@each_kind
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_weights_that_are_not_floating_point_are_an_error(
    kind: Callable[..., Any], dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match=f"weights must be floating point, got {dtype}"):
        parsed(kind(IDS), kind([[1, 1], [], [1]], dtype))


@each_kind
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")]
)
def test_a_weight_that_is_not_finite_is_an_error_naming_value_and_place(
    kind: Callable[..., Any], combiner: str, value: float, text: str
) -> None:
    message = f"'clicks'.*weight {text} at sample 2, position 1 is not finite"
    with pytest.raises(ValueError, match=message):
        parsed(
            kind([[1, 2], [], [3, 4]]),
            kind([[0.5, 1.0], [], [2.0, value]], torch.float32),
            combiner=combiner,
        )


@pytest.mark.parametrize(
    ("ids", "make"),
    [
        (sparse, lambda: sparse_on("meta", torch.float32)),
        (ragged, lambda: jagged_on("meta", torch.float32)),
    ],
    ids=["sparse", "jagged"],
)
def test_weights_on_a_device_are_an_error(
    ids: Callable[..., Any], make: Callable[..., Any]
) -> None:
    with pytest.raises(
        ValueError, match=r"'clicks'.*must be a host \(CPU\) tensor, got one on meta"
    ):
        parsed(ids([[0]]), make())


@pytest.mark.parametrize("kind", [ragged, sparse])
def test_weights_that_cancel_to_almost_nothing_are_an_error_naming_sample_and_combiner(
    kind: Callable[..., Any],
) -> None:
    weights = kind([[1.0], [3e38, -3e38, 0.5]], torch.float32)
    message = "'clicks'.*weights of sample 1 cancel to 0.5.* combiner 'mean'; use 'sum'"
    with pytest.raises(ValueError, match=message):
        parsed(kind([[1], [2, 3, 4]]), weights, combiner="mean")


@pytest.mark.parametrize("combiner", ["sum", "sqrtn"])
@pytest.mark.parametrize("weight", [1e300, -1e300])
def test_a_float64_weight_that_float32_cannot_hold_is_refused(combiner: str, weight: float) -> None:
    weights = ragged([[1.0], [2.0, weight]], torch.float64)
    with pytest.raises(ValueError, match=r"'clicks'.*'items'.*sample 1"):
        parsed(ragged([[1], [2, 3]]), weights, combiner=combiner)

"""Flattening nests of dicts, lists and tuples, and packing leaves again."""

from collections import OrderedDict, namedtuple
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_tpu_embedding.config.nest import flatten_like, flatten_with_paths, pack_like

Pair = namedtuple("Pair", ["second", "first"])

nests = st.recursive(
    st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.tuples(inner, inner).map(lambda items: Pair(*items))
        | st.dictionaries(st.text("abZ_/", max_size=2), inner, max_size=3)
        | st.dictionaries(st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


def shape_of(nest: Any) -> Any:
    """The nest with its containers' types and key order spelled out."""
    if isinstance(nest, dict):
        return dict, [(key, shape_of(value)) for key, value in nest.items()]
    if isinstance(nest, (list, tuple)):
        return type(nest), [shape_of(item) for item in nest]
    return nest


# -- flatten_with_paths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nest", "pairs"),
    [
        (7, [("", 7)]),
        ({"b": 1, "a": 2}, [("a", 2), ("b", 1)]),
        ({"a": 1, "_z": 2, "Z": 3}, [("Z", 3), ("_z", 2), ("a", 1)]),
        (OrderedDict([("b", 1), ("a", 2)]), [("a", 2), ("b", 1)]),
        (MappingProxyType({"b": 1, "a": 2}), [("a", 2), ("b", 1)]),
        ({10: 1, 9: 2}, [("9", 2), ("10", 1)]),
        ([5, (6, 7)], [("0", 5), ("1/0", 6), ("1/1", 7)]),
        (Pair(second=1, first=2), [("0", 1), ("1", 2)]),
        ({"u": [{"y": 1, "x": 2}, 3]}, [("u/0/x", 2), ("u/0/y", 1), ("u/1", 3)]),
        ({"a": [], "b": {}}, []),
        (None, [("", None)]),
    ],
    ids=[
        "leaf",
        "dict",
        "ascii_order",
        "ordered_dict",
        "mapping",
        "int_keys",
        "list_and_tuple",
        "namedtuple",
        "mixed",
        "no_leaves",
        "none",
    ],
)
def test_dicts_flatten_by_sorted_key_and_sequences_by_position(
    nest: Any, pairs: list[tuple[str, int | None]]
) -> None:
    assert list(flatten_with_paths(nest)) == pairs


def test_keys_that_do_not_sort_are_an_error_naming_the_place_and_the_keys() -> None:
    with pytest.raises(TypeError, match=r"the dict at 'u/0' has keys that do not sort: \[1, 'a'\]"):
        list(flatten_with_paths({"u": [{1: 0, "a": 0}]}))
    with pytest.raises(TypeError, match="the dict at 'the top' has keys that do not sort"):
        list(flatten_with_paths({1: 0, "a": 0}))


# -- pack_like -------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(nests)
def test_packing_what_was_flattened_gives_the_nest_again_with_its_types_and_key_order(
    nest: Any,
) -> None:
    leaves = [leaf for _, leaf in flatten_with_paths(nest)]
    assert shape_of(pack_like(nest, leaves)) == shape_of(nest)


@settings(max_examples=50, deadline=None)
@given(nests, nests)
def test_leaves_keep_their_places_whatever_they_are(nest: Any, other: Any) -> None:
    count = len(list(flatten_with_paths(nest)))
    leaves = [(k, f"leaf {k}") for k in range(count)]  # tuples: a leaf may itself be a container

    class Leaf:
        def __init__(self, value: tuple[int, str]) -> None:
            self.value = value

    packed = pack_like(nest, [Leaf(leaf) for leaf in leaves])
    assert [leaf.value for _, leaf in flatten_with_paths(packed)] == leaves
    assert [path for path, _ in flatten_with_paths(packed)] == [
        path for path, _ in flatten_with_paths(nest)
    ]


def test_a_dict_subclass_is_packed_into_a_dict_in_the_users_key_order() -> None:
    packed = pack_like(OrderedDict([("b", 0), ("a", 0)]), ["for a", "for b"])
    assert list(packed.items()) == [("b", "for b"), ("a", "for a")]


@pytest.mark.parametrize("leaves", [[], [1], [1, 2, 3]], ids=len)
def test_another_number_of_leaves_than_the_nest_has_places_is_an_error(leaves: list[int]) -> None:
    with pytest.raises((AssertionError, IndexError)):
        pack_like({"a": 0, "b": [0]}, leaves)


# -- flatten_like ----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(nests)
def test_a_nest_is_flattened_like_itself(nest: Any) -> None:
    assert flatten_like(nest, nest, "features") == [leaf for _, leaf in flatten_with_paths(nest)]


def test_items_are_read_where_the_template_has_its_leaves() -> None:
    template = {"b": 0, "a": [0, Pair(0, 0)]}
    given_nest = OrderedDict([("a", ["x", Pair("y", None)]), ("b", "z")])
    assert flatten_like(template, given_nest, "weights") == ["x", "y", None, "z"]


@pytest.mark.parametrize(
    ("template", "structure", "error", "message"),
    [
        ({"a": 0}, [0], TypeError, "features must be a dict, .*like feature_config, got list"),
        ({"a": 0}, None, TypeError, "features must be a dict, .* got NoneType"),
        ([0], (0,), TypeError, "features must be a list, .* got tuple"),
        ((0,), [0], TypeError, "features must be a tuple, .* got list"),
        (Pair(0, 0), (0, 0), TypeError, "features must be a Pair, .* got tuple"),
        ((0, 0), Pair(0, 0), TypeError, "features must be a tuple, .* got Pair"),
        (0, [0], TypeError, "features must be one item, not a container, .* got list"),
        (0, {"a": 0}, TypeError, "features must be one item, not a container, .* got dict"),
        ({"u": [0, 0]}, {"u": [0, [0]]}, TypeError, "features at 'u/1' must be one item"),
        ({"u": {"v": [0]}}, {"u": {"v": 0}}, TypeError, "features at 'u/v' must be a list"),
        ((0, 0), (0,), ValueError, "features must have 2 items like feature_config, got 1"),
        ({"u": [0]}, {"u": [0, 0]}, ValueError, "features at 'u' must have 1 items .* got 2"),
        (
            {"a": 0, "b": 0},
            {"a": 0, "c": 0},
            ValueError,
            r"features must have the keys of feature_config: missing \['b'\], unexpected \['c'\]",
        ),
        (
            {"u": {"a": 0}},
            {"u": {}},
            ValueError,
            r"features at 'u' must have the keys .*missing \['a'\], unexpected \[\]",
        ),
        ({"a": 0}, {"a": 0, 1: 0}, ValueError, r"missing \[\], unexpected \['1'\]"),
    ],
)
def test_another_structure_is_an_error_saying_where_and_how_it_differs(
    template: Any, structure: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        flatten_like(template, structure, "features")

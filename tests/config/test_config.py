"""TableConfig, FeatureConfig, and how a nest of them resolves into tables and features."""

import dataclasses
import re
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve

Pair = namedtuple("Pair", ["second", "first"])


def table(**options: Any) -> tte.TableConfig:
    return tte.TableConfig(8, 4, **options)


def feature(of: tte.TableConfig | None = None, **options: Any) -> tte.FeatureConfig:
    return tte.FeatureConfig(of if of is not None else table(), **options)


# -- TableConfig and FeatureConfig -----------------------------------------------------------------


def test_a_table_keeps_what_it_is_given_and_has_the_defaults_of_tf() -> None:
    made = tte.TableConfig(8, 4)
    assert (made.vocabulary_size, made.dim) == (8, 4)
    assert (made.initializer, made.optimizer, made.combiner, made.name) == (
        None,
        None,
        "mean",
        None,
    )
    optimizer = tte.SGD(0.1)
    own = tte.TableConfig(
        8, 4, initializer=torch.zeros, optimizer=optimizer, combiner="sqrtn", name="user"
    )
    assert own.initializer is torch.zeros
    assert own.optimizer is optimizer
    assert (own.combiner, own.name) == ("sqrtn", "user")


def test_a_feature_keeps_what_it_is_given_and_is_no_sequence_by_default() -> None:
    of = table()
    assert (feature(of).table, feature(of).max_sequence_length, feature(of).name) == (of, 0, None)
    own = feature(of, max_sequence_length=3, name="watched")
    assert (own.max_sequence_length, own.name) == (3, "watched")


@pytest.mark.parametrize("field", ["vocabulary_size", "dim"])
@pytest.mark.parametrize("value", [0, -1, 8.0, True, "8", None, np.int64(8)], ids=repr)
def test_a_size_that_is_no_positive_int_is_an_error_naming_field_value_and_type(
    field: str, value: Any
) -> None:
    sizes = {"vocabulary_size": 8, "dim": 4, field: value}
    wanted = (
        f"TableConfig: {field} must be a Python int of at least 1, "
        f"got {value!r} ({type(value).__name__})"
    )
    with pytest.raises(ValueError, match=re.escape(wanted)):
        tte.TableConfig(**sizes)


@pytest.mark.parametrize("value", [-1, 2.0, False, "2", None, np.int32(2)], ids=repr)
def test_a_sequence_length_that_is_no_natural_number_is_an_error(value: Any) -> None:
    wanted = f"max_sequence_length must be a Python int of at least 0, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        feature(max_sequence_length=value)


@pytest.mark.parametrize("combiner", ["max", "MEAN", None, 1, ["sum"]], ids=repr)
def test_an_unknown_combiner_is_an_error_listing_the_known_ones(combiner: Any) -> None:
    wanted = f"combiner must be one of 'mean', 'sum', 'sqrtn', got {combiner!r}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        table(combiner=combiner)


@pytest.mark.parametrize("initializer", [0.1, "normal", [1.0]], ids=repr)
def test_an_initializer_that_cannot_be_called_is_an_error(
    initializer: list[float] | float | str,
) -> None:
    got = re.escape(f"got {initializer!r}")
    with pytest.raises(ValueError, match=f"TableConfig: initializer must be .*callable.*{got}"):
        table(initializer=initializer)


@pytest.mark.parametrize("name", ["", 3, b"user"], ids=repr)
def test_a_table_name_that_is_empty_or_no_str_is_an_error(name: str | int | bytes) -> None:
    wanted = f"name must be None or a non-empty str, got {name!r}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        table(name=name)


def test_a_feature_name_that_is_no_str_is_an_error() -> None:
    with pytest.raises(ValueError, match="FeatureConfig: name must be None or a str, got 3"):
        feature(name=3)


@pytest.mark.parametrize("of", [None, "user", 8, tte.SGD(0.1)], ids=lambda of: type(of).__name__)
def test_a_feature_without_a_table_config_is_an_error(of: Any) -> None:
    with pytest.raises(ValueError, match="FeatureConfig: table must be a TableConfig, got"):
        tte.FeatureConfig(of)


def test_options_are_given_by_keyword_only() -> None:
    with pytest.raises(TypeError):
        tte.TableConfig(8, 4, None)
    with pytest.raises(TypeError):
        tte.FeatureConfig(table(), 3)


@pytest.mark.parametrize(("config", "field"), [(table(), "name"), (feature(), "table")])
def test_configs_are_read_only(config: tte.FeatureConfig | tte.TableConfig, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, None)


def test_configs_compare_by_identity_and_can_be_dict_keys() -> None:
    one, other = table(name="user"), table(name="user")
    assert one == one
    assert one != other
    assert {one: 1, other: 2}[one] == 1
    assert feature(one) != feature(one)


# -- resolve: tables -------------------------------------------------------------------------------


def test_tables_come_in_the_order_of_first_occurrence_and_unnamed_ones_take_their_position() -> (
    None
):
    a, b, c = table(), table(name="zz"), table()
    nest = {"b": feature(b), "a": feature(a), "c": (feature(c), feature(a))}
    resolved = resolve(nest, None)
    assert [(t.name, t.config) for t in resolved.tables] == [
        ("table_0", a),
        ("zz", b),
        ("table_2", c),
    ]
    assert [f.table_index for f in resolved.features] == [0, 1, 2, 0]
    assert resolved.structure is nest


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_feature_finds_its_own_table_whatever_the_nest(data: st.DataObject) -> None:
    tables = [table() for _ in range(3)]
    leaf = st.sampled_from(tables).map(feature)
    nest = data.draw(
        st.recursive(
            leaf,
            lambda inner: (
                st.lists(inner, min_size=1, max_size=3)
                | st.dictionaries(st.text("abZ_", min_size=1), inner, min_size=1, max_size=3)
            ),
        )
    )

    def leaves(part: Any) -> list[tte.FeatureConfig]:
        if isinstance(part, dict):
            return [leaf for key in sorted(part) for leaf in leaves(part[key])]
        return (
            [leaf for item in part for leaf in leaves(item)] if isinstance(part, list) else [part]
        )

    resolved = resolve(nest, None)
    assert [f.config for f in resolved.features] == leaves(nest)
    assert [resolved.table_of(f).config for f in resolved.features] == [
        f.table for f in leaves(nest)
    ]
    seen = [f.table_index for f in resolved.features]
    assert list(dict.fromkeys(seen)) == list(range(len(resolved.tables)))
    assert [t.name for t in resolved.tables] == [f"table_{k}" for k in range(len(resolved.tables))]


def test_equal_looking_tables_are_two_tables() -> None:
    resolved = resolve([feature(table()), feature(table())], None)
    assert [f.table_index for f in resolved.features] == [0, 1]


def test_two_tables_of_one_name_are_an_error_saying_which() -> None:
    nest = [feature(table(name="user")), feature(), feature(table(name="user"))]
    with pytest.raises(
        ValueError, match=r"Multiple tables with name 'user' found \(tables 0 and 2"
    ):
        resolve(nest, None)


def test_a_name_that_another_table_takes_automatically_is_an_error_too() -> None:
    nest = [feature(table(name="table_1")), feature(table())]
    with pytest.raises(ValueError, match="Multiple tables with name 'table_1' found"):
        resolve(nest, None)


def test_one_table_in_several_features_is_no_name_clash() -> None:
    shared = table(name="user")
    assert len(resolve([feature(shared), feature(shared)], None).tables) == 1


def test_a_tables_own_optimizer_wins_and_the_others_take_the_default() -> None:
    own, default = tte.SGD(0.5), tte.Adagrad(0.1)
    nest = [feature(table(optimizer=own)), feature(table())]
    assert [t.optimizer for t in resolve(nest, default).tables] == [own, default]
    assert [t.optimizer for t in resolve(nest, None).tables] == [own, None]


@pytest.mark.parametrize(
    "wrong",
    ["sgd", tte.SGD, torch.optim.SGD([torch.zeros(1)])],
    ids=["str", "class", "torch.optim"],
)
@pytest.mark.parametrize("place", ["own", "default"])
def test_an_optimizer_of_another_kind_is_an_error_naming_table_and_remedy(
    wrong: type[tte.SGD] | str | torch.optim.SGD, place: str
) -> None:
    own = wrong if place == "own" else None
    nest = feature(table(name="user", optimizer=own))
    with pytest.raises(
        ValueError, match=r"(?s)'user'.*unsupported optimizer class.*torch_tpu_embedding.optimizers"
    ):
        resolve(nest, wrong if place == "default" else None)


def test_resolving_never_changes_the_configs_so_they_can_be_used_again() -> None:
    of = table()
    nest = {"b": feature(of), "a": feature(table(name="x", optimizer=tte.SGD(0.5)))}

    def contents() -> tuple[list[tuple[str, tte.FeatureConfig]], list[dict[str, Any]]]:
        configs = [*nest.values(), *(f.table for f in nest.values())]
        return list(nest.items()), [dict(vars(config)) for config in configs]

    before = contents()
    first, second = resolve(nest, tte.SGD(0.1)), resolve(nest, tte.Adam(0.2))
    assert contents() == before
    assert (of.name, of.optimizer) == (None, None)
    assert [t.optimizer for t in first.tables] == [tte.SGD(0.5), tte.SGD(0.1)]
    assert [t.optimizer for t in second.tables] == [tte.SGD(0.5), tte.Adam(0.2)]


# -- resolve: features -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nest", "names"),
    [
        (feature(), ["feature"]),
        (feature(name="own"), ["own"]),
        ([feature(), feature(name="own")], ["0", "own"]),
        ({"user": {"b": feature(), "a": feature()}}, ["user/a", "user/b"]),
        (Pair(second=feature(), first=(feature(), feature())), ["0", "1/0", "1/1"]),
        (OrderedDict([("b", feature()), ("a", feature())]), ["a", "b"]),
    ],
    ids=["lone", "lone_named", "list", "dict", "namedtuple", "ordered_dict"],
)
def test_features_come_in_flattening_order_and_are_named_by_themselves_or_their_place(
    nest: Any, names: list[str]
) -> None:
    assert [f.name for f in resolve(nest, None).features] == names


@pytest.mark.parametrize("nest", [{}, [], (), {"a": [], "b": ()}], ids=repr)
def test_a_nest_without_features_is_an_error(nest: Any) -> None:
    with pytest.raises(ValueError, match="holds no feature: give at least one FeatureConfig"):
        resolve(nest, None)


@pytest.mark.parametrize(
    ("nest", "message"),
    [
        ({"user": [feature(), None]}, "'user/1' must be a FeatureConfig, got NoneType"),
        ({"user": table()}, "'user' must be a FeatureConfig, got TableConfig"),
        ("user", "feature_config .*must be a FeatureConfig, got str"),
    ],
    ids=["none", "table", "lone"],
)
def test_a_leaf_that_is_no_feature_config_is_an_error_naming_its_place(
    nest: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        resolve(nest, None)


def test_dict_keys_that_cannot_be_sorted_are_an_error_naming_them() -> None:
    with pytest.raises(TypeError, match=r"dict at 'user' has keys that do not sort: \['a', 1\]"):
        resolve({"user": {"a": feature(), 1: feature()}}, None)

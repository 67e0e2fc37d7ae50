"""A KeyedJaggedTensor whose keys have one length each is read at once, as the features it holds."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.keyed import Keyed

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import Resolved, resolve
from torch_tpu_embedding.inputs import parse as parsing
from torch_tpu_embedding.inputs.at_once.bags import OneLengthBags


def read(resolved: Resolved, value: Any, id_bounds: str = "raise") -> Any:
    shapes = [each.output_shape for each in resolved.features]
    return parsing.parse_features(resolved, value, None, None, id_bounds, shapes)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Resolved, Keyed]:
    """Keys in any order, nearly always with bags of one length each; now and then wrong ids, or weights."""
    names = draw(st.permutations(["a", "b", "c", "d"][: draw(st.integers(1, 4))]))
    size, rare = draw(st.integers(1, 4)), st.sampled_from([False] * 9 + [True])
    values, lengths, config = [], [], {}
    for name in names:
        rows, combiner = draw(st.integers(2, 9)), draw(st.sampled_from(["sum", "mean", "sqrtn"]))
        config[name] = tte.FeatureConfig(tte.TableConfig(rows, 4, combiner=combiner))
        length = draw(st.integers(0 if draw(rare) else 1, 3))
        of_key = [draw(st.integers(0, 3)) if draw(rare) else length for _ in range(size)]
        ids = st.integers(-1 if draw(rare) else 0, rows - 1)
        values += draw(st.lists(ids, min_size=sum(of_key), max_size=sum(of_key)))
        lengths += of_key
    weights = [1.5] * len(values) if draw(rare) else None
    return resolve(config, tte.Adagrad(0.1)), Keyed(names, values, lengths, weights)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_bags_are_those_of_its_keys_one_by_one(case: tuple[Resolved, Keyed]) -> None:
    resolved, value = case
    found = read(resolved, value, "drop")
    with mock.patch.object(parsing, "read_keyed", return_value=None):
        wanted = read(resolved, value, "drop")
    for one, other in zip(found, wanted, strict=True):
        for name in ("ids", "bag", "gain"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert (one.shape, one.num_ids, one.num_dropped) == (
            other.shape,
            other.num_ids,
            other.num_dropped,
        )


CONFIG = {
    name: tte.FeatureConfig(tte.TableConfig(10, 4, name=f"t_{name}")) for name in ("user", "seen")
}


def test_bags_of_one_length_are_read_at_once() -> None:
    bags = read(
        resolve(CONFIG, tte.Adagrad(0.1)), Keyed(["user", "seen"], [7, 8, 1, 2, 3, 4], [1, 1, 2, 2])
    )
    assert isinstance(bags, OneLengthBags)
    assert bags.lengths == (2, 1), "seen, user"


def test_an_id_outside_is_named_with_its_feature_and_position() -> None:
    value = Keyed(["user", "seen"], [7, 8, 1, 2, 3, 10], [1, 1, 2, 2])
    match = r"feature 'seen' \(table 't_seen'\): id 10 at sample 1, position 1 is outside \[0, 10\)"
    with pytest.raises(ValueError, match=match):
        read(resolve(CONFIG, tte.Adagrad(0.1)), value)


def test_lengths_and_offsets_that_do_not_fit_are_an_error() -> None:
    value = Keyed(["user", "seen"], [7, 8, 1, 2, 3, 4], [1, 1, 2, 2])
    value._offsets = torch.tensor([0, 1, 2, 3, 6], dtype=torch.int32)
    with pytest.raises(ValueError, match="its lengths are not those of its offsets"):
        read(resolve(CONFIG, tte.Adagrad(0.1)), value)

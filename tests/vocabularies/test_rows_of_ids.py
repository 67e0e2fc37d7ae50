"""Ids become rows on the host alone: what goes on from there is what row numbers would give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import helpers

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import Resolved, resolve
from torch_tpu_embedding.inputs.bags import Bags
from torch_tpu_embedding.inputs.parse import parse_features
from torch_tpu_embedding.reference import rows_by_hash
from torch_tpu_embedding.vocabularies.rows_of_ids import bags_of_rows

V = 17
BY_HASH = tte.HashedVocabulary(seed=5)
rows_of_ids = st.lists(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4), min_size=3, max_size=3
)


def resolved(vocabulary: tte.HashedVocabulary | None, combiner: str, length: int) -> Resolved:
    table = tte.TableConfig(V, 3, name="t", combiner=combiner, vocabulary=vocabulary)
    return resolve([tte.FeatureConfig(table, max_sequence_length=length)], None)


def parsed(of: Resolved, value: object, weights: object = None) -> Bags:
    (found,) = bags_of_rows(of, parse_features(of, [value], [weights], None, "raise", [None]))
    return found


def same(one: Bags, other: Bags) -> bool:
    pairs = [(vars(one)[name], vars(other)[name]) for name in vars(one)]
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in pairs
    )


@settings(max_examples=60, deadline=None)
@given(rows_of_ids, st.sampled_from(helpers.KINDS), st.sampled_from(["mean", "sum", "sqrtn"]),
       st.sampled_from([0, 2]), st.booleans())  # fmt: skip
def test_bags_by_one_hash_are_those_of_the_row_numbers(
    ids: list[list[int]], kind: str, combiner: str, length: int, weighted: bool
) -> None:
    numbers = [[rows_by_hash(each, BY_HASH, V)[0] for each in row] for row in ids]
    weights = None
    if weighted and not length:
        weights = helpers.as_kind(
            [[0.5 + j for j, _ in enumerate(r)] for r in ids], kind, torch.float32
        )
    found = parsed(resolved(BY_HASH, combiner, length), helpers.as_kind(ids, kind), weights)
    wanted = parsed(resolved(None, combiner, length), helpers.as_kind(numbers, kind), weights)
    assert same(found, wanted)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6))
def test_dense_ids_too(ids: list[int]) -> None:
    numbers = [rows_by_hash(each, BY_HASH, V)[0] for each in ids]
    found = parsed(resolved(BY_HASH, "mean", 0), torch.tensor(ids))
    assert same(found, parsed(resolved(None, "mean", 0), torch.tensor(numbers)))


@pytest.mark.parametrize("value", [torch.tensor([3, 1]), tte.Ragged.from_lists([[3], [1, 1]])])
def test_a_table_without_a_vocabulary_takes_no_copy_of_its_ids(value: object) -> None:
    found = parsed(resolved(None, "sum", 0), value)
    given_ids = value.values if isinstance(value, tte.Ragged) else value
    assert isinstance(given_ids, torch.Tensor)
    assert found.raw_ids is None
    assert found.ids.data_ptr() == given_ids.data_ptr()

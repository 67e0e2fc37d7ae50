"""A batch that cannot be sent leaves the maps from ids to rows as they were."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import helpers
from models.maps import ALL_IDS, NUM_IDS, SmallMap, rules, streams

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch.batcher import Batcher
from torch_tpu_embedding.program.live_rows.send import NewRowsSender
from torch_tpu_embedding.vocabularies.id_maps.id_map import IdMap, MapRules


def known(made: IdMap) -> dict[str, Any]:
    """Everything that decides what a map does next."""
    state = made.state(np.empty(0, np.int64))
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()}
    return plain | {"free": made._free[: made._num_free].tolist()}


@settings(max_examples=300, deadline=None)
@given(
    rules,
    st.integers(1, 12),
    streams,
    st.lists(st.integers(0, NUM_IDS - 1), max_size=12),
    st.data(),
)
def test_an_update_that_is_taken_back_was_never_made(
    rules: MapRules,
    own_rows: int,
    stream: list[tuple[list[int], int]],
    failed: list[int],
    data: st.DataObject,
) -> None:
    one, other = (SmallMap(rules.oov_rows + own_rows, rules) for _ in range(2))
    at = data.draw(st.integers(0, len(stream)))
    for number, (numbers, in_flight) in enumerate([*stream, ([], 0)]):
        if number == at:
            before = known(one)
            journal = one.update(ALL_IDS[failed], one.clock + 1).journal
            assert one.take_back(journal)
            assert known(one) == before
            assert not one.take_back(journal)
        ids, oldest = ALL_IDS[numbers], one.clock + 1 - in_flight
        a, b = one.update(ids, oldest), other.update(ids, oldest)
        for name in ("rows", "new_rows", "new_ids"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        assert known(one) == known(other)


def test_an_update_before_another_one_is_not_taken_back() -> None:
    made = IdMap(6, MapRules("lru", 1, 1, None))
    first = made.update(ALL_IDS[:2], 1).journal
    made.update(ALL_IDS[2:3], 2)
    assert not made.take_back(first)
    assert made.num_ids == 3


def make() -> tte.TPUEmbedding:
    vocabulary = tte.DynamicVocabulary(admission=2, oov_rows=2, max_age=9)
    features = [tte.FeatureConfig(tte.TableConfig(9, 4, name="t", vocabulary=vocabulary))]
    return tte.TPUEmbedding(features, 4, tte.Adagrad(0.1), seed=0)


@pytest.mark.parametrize("owner", [(Batcher, "make"), (NewRowsSender, "send")])
def test_a_run_with_batches_that_could_not_be_sent_is_one_without_them(
    owner: tuple[type, str],
) -> None:
    one, other = make(), make()
    rng = np.random.default_rng(0)
    one.enable_metrics()
    other.enable_metrics()
    for step in range(12):
        ids = [torch.from_numpy(ALL_IDS[rng.integers(0, 14, 4)])]
        if step % 3 == 2:
            lost = [torch.from_numpy(ALL_IDS[rng.integers(0, NUM_IDS, 4)])]
            with (
                mock.patch.object(*owner, side_effect=RuntimeError("no memory")),
                pytest.raises(RuntimeError, match="no memory"),
            ):
                one.enqueue(lost)
        for a, b in zip(helpers.train_step(one, ids), helpers.train_step(other, ids), strict=True):
            assert torch.equal(a, b)
    found, wanted = helpers.tensors(one), helpers.tensors(other)
    for key, value in found.items():
        assert torch.equal(value, wanted[key]), key
    tables = [each.metrics()["tables"]["t"]["vocabulary"] for each in (one, other)]
    assert tables[0] == tables[1]

"""A saved map is that before the batches that wait: a run that goes on from it sees those again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.vocabularies.id_maps.id_map import IdMap, MapRules

B = 8


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=8), min_size=1, max_size=40),
    st.sampled_from(["lru", "lfu", None]),
    st.integers(1, 3),
    st.sampled_from([None, 4]),
    st.integers(0, 6),
)
def test_the_state_before_updates_is_that_of_a_map_that_has_not_seen_them(
    batches: list[list[int]], eviction: str | None, admission: int, max_age: int | None, last: int
) -> None:
    nobody = np.empty(0, np.int64)
    rules = MapRules(eviction, admission, 2, max_age)
    map_, journals, states = IdMap(10, rules), [], []
    for each in batches:
        states.append(map_.state(nobody))
        journals.append(map_.update(np.array(each, np.int64), map_.clock + 1).journal)
    states.append(map_.state(nobody))
    number = min(last, len(batches))
    before = journals[::-1][:number]
    assert same(map_.state(nobody, before), states[len(batches) - number])
    assert same(map_.state(nobody), states[-1])


class Run:
    """A model on a table whose ids come and go, trained through a loader."""

    def __init__(self, rows: int, **rules: Any) -> None:
        vocabulary = tte.DynamicVocabulary(oov_rows=2, **rules)
        table = tte.TableConfig(rows, 4, name="live", vocabulary=vocabulary)
        features = {"x": tte.FeatureConfig(table)}
        self.embedding = tte.TPUEmbedding(features, B, tte.Adagrad(0.1), seed=3)
        rng = np.random.default_rng(0)
        self.batches = [torch.from_numpy(rng.zipf(1.3, B) % 60 + step // 2) for step in range(24)]
        self.loader = tte.EmbeddingLoader(
            self.batches, self.embedding, features=lambda ids: {"x": ids}
        )

    def losses(self) -> Iterator[float]:
        for _ in self.loader:
            loss = self.step()
            tte.runtime.sync()
            yield loss.item()

    def step(self) -> torch.Tensor:
        loss = (self.embedding.dequeue()["x"] - 1).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.embedding.apply_gradients()
        return loss.detach()


MANY: dict[str, Any] = {"rows": 200, "admission": 2, "max_age": 4}
FULL: dict[str, Any] = {"rows": 40, "eviction": "lru"}


@pytest.mark.parametrize(("rules", "background"), [(MANY, False), (MANY, True), (FULL, False)])
def test_a_run_saved_within_an_epoch_goes_on_as_one_that_is_not_stopped(
    tmp_path: Path, rules: dict[str, Any], background: bool
) -> None:
    run, losses = Run(**rules), []
    for number, loss in enumerate(run.losses(), 1):
        losses.append(loss)
        if number == 11:
            extra = run.loader.state_dict()
            checkpoint.save(run.embedding, tmp_path, 11, extra, asynchronous=background)
    ids = run.embedding.state_dict()["live.ids"]
    again = Run(**rules)
    again.loader.load_state_dict(checkpoint.load(again.embedding, tmp_path).extra)
    assert [*again.losses()] == losses[11:]
    found = again.embedding.state_dict()["live.ids"]
    told = [0, 2, 3] if "max_age" in rules else [0, 1, 2, 3]
    assert sorted(found[:, told].tolist()) == sorted(ids[:, told].tolist())
    assert len(ids) == 39 or rules is MANY, "the table is full"


def test_batches_that_wait_leave_the_state_dict_as_it_was() -> None:
    run = Run(**MANY)
    for batch in run.batches[:6]:
        run.embedding.enqueue({"x": batch})
        run.step()
    before = run.embedding.state_dict()
    run.embedding.enqueue({"x": run.batches[6]})
    run.embedding.enqueue({"x": run.batches[7]})
    waiting = run.embedding.state_dict()
    assert all(torch.equal(before[key], waiting[key]) for key in before)
    run.step()
    assert int(run.embedding.state_dict()["live.ids"][0, 0]) == 7
    run.embedding.discard()

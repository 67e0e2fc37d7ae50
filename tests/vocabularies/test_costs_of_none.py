"""Tables without a vocabulary do not pay for those that have one."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

OF_VOCABULARIES = Path(tte.__file__).parent / "vocabularies"


@contextmanager
def calls_of_vocabularies() -> Iterator[Counter[str]]:
    """The functions of vocabularies that run, in any thread that starts within."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(OF_VOCABULARIES)):
            found[f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def make(vocabulary: Any) -> tte.TPUEmbedding:
    table = tte.TableConfig(20, 4, name="t", combiner="sum", vocabulary=vocabulary)
    features = {"one": tte.FeatureConfig(table), "bag": tte.FeatureConfig(table)}
    return tte.TPUEmbedding(features, 4, tte.Adagrad(0.1), seed=0)


def run(embedding: tte.TPUEmbedding, path: Path) -> None:
    """Some steps by hand and by a loader, an inference, a checkpoint and its load."""
    batches = [
        {
            "one": torch.arange(4) + step,
            "bag": tte.Ragged.from_lists([[1, step], [2], [], [3, 4, 5]]),
        }
        for step in range(4)
    ]

    def step() -> None:
        sum(each.sum() for each in embedding.dequeue().values()).backward()  # type: ignore[union-attr]
        embedding.apply_gradients()
        tte.runtime.sync()

    for batch in batches:
        embedding.enqueue(batch)
        step()
    for _ in tte.EmbeddingLoader(batches, embedding):
        step()
    embedding.eval()
    embedding(batches[0])
    embedding.train()
    checkpoint.save(embedding, path, 1)
    checkpoint.save(embedding, path, 2, since=1)
    checkpoint.load(embedding, path)


@pytest.mark.parametrize("vocabulary", [None, tte.DynamicVocabulary()])
def test_one_function_of_vocabularies_runs_for_a_batch_of_them(
    tmp_path: Path, vocabulary: Any
) -> None:
    embedding = make(vocabulary)
    with calls_of_vocabularies() as found:
        run(embedding, tmp_path)
    assert found.pop("rows_of_ids.py:bags_of_rows") == 9, "it looks whether there is a vocabulary"
    assert bool(found) == (vocabulary is not None), found


def test_their_checkpoints_have_no_field_and_no_entry_of_a_map(tmp_path: Path) -> None:
    run(make(None), tmp_path)
    for step in (1, 2):
        path = tmp_path / f"step-{step}"
        entry = json.loads((path / "model.safetensors.index.json").read_text())
        described = entry["checkpoint"]["tables"]["t"]
        assert {"map", "vocabulary"}.isdisjoint(described)
        assert not [*path.glob("vocabulary*")]

"""Batches read and packed at once, and one feature after another, which is the reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from models.host_batches import make_batcher

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch.batcher import HostBatch
from torch_tpu_embedding.batch.sample_padding import SampleCount
from torch_tpu_embedding.config.resolved import Resolved, resolve
from torch_tpu_embedding.inputs import parse as parsing

SIZE = 3
"""Samples of a batch."""


class Case(NamedTuple):
    """Features, batches of their inputs with weights or None, and what an id outside does."""

    resolved: Resolved
    batches: list[tuple[Any, Any]]
    id_bounds: str


def parse(case: Case, batch: tuple[Any, Any]) -> Any:
    shapes = [None] * len(case.resolved.features)
    return parsing.parse_features(case.resolved, *batch, None, case.id_bounds, shapes)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Features are read one after another."""
    names = ("read_flat", "read_at_once", "read_keyed")
    with mock.patch.multiple(parsing, **{name: lambda *_: None for name in names}):
        yield


def parse_one_by_one(case: Case, batch: tuple[Any, Any]) -> Any:
    with one_by_one():
        return parse(case, batch)


def host_batches(
    case: Case, parsed: list[Any], training: bool, devices: int = 1
) -> list[HostBatch]:
    batcher, shapes = make_batcher(case.resolved, devices), [None] * len(case.resolved.features)
    samples = SampleCount(case.resolved, SIZE, 1)
    return [batcher.make(each, training, samples.of(each, shapes, training)) for each in parsed]


def read(config: list[tte.FeatureConfig], values: Any, weights: Any, id_bounds: str) -> Any:
    """Some values of features, parsed."""
    resolved = resolve(config, tte.Adagrad(0.1))
    shapes = [each.output_shape for each in resolved.features]
    return parsing.parse_features(resolved, values, weights, None, id_bounds, shapes)


def times_packed(packer: type, config: list[tte.FeatureConfig], batch: list[Any]) -> int:
    """How many of three equal batches this packer takes."""
    case = Case(resolve(config, tte.Adagrad(0.1)), [(batch, None)] * 3, "raise")
    pack = packer.pack  # type: ignore[attr-defined]
    with mock.patch.object(packer, "pack", autospec=True, side_effect=pack) as taken:
        host_batches(case, [parse(case, each) for each in case.batches], True)
    return taken.call_count


def assert_an_id_outside_is_named(
    embedding: tte.TPUEmbedding, batch: list[Any], wrong: int, sample: int
) -> None:
    """The fourth id of feature 1 is, after batches that were packed at once; the next batch is taken."""
    for _ in range(2):
        embedding.enqueue(batch)
        embedding.discard()
    ids: torch.Tensor = batch[1].values.clone()
    ids[3] = wrong
    bad = [batch[0], tte.Ragged(ids, batch[1].row_splits), batch[2]]
    place = rf"feature '1' \(table 't1'\): id {wrong} at sample {sample}, position 1"
    with pytest.raises(ValueError, match=rf"{place} is outside \[0, 11\)"):
        embedding.enqueue(bad)
    embedding.enqueue(batch)

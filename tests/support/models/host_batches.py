"""Host batches, made in the way that is taken and as the reference makes them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

from torch_tpu_embedding.batch import dedup
from torch_tpu_embedding.batch.batcher import Batcher, HostBatch
from torch_tpu_embedding.batch.sample_padding import SampleCount
from torch_tpu_embedding.config.resolved import Resolved
from torch_tpu_embedding.distributed.group import Alone
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.inputs.bags import Bags
from torch_tpu_embedding.inputs.parse import parse_features
from torch_tpu_embedding.tables.layout import build_stacks


def make_batcher(resolved: Resolved, devices: int) -> Batcher:
    placement = Placement("mod", 1, 0, devices)
    return Batcher(
        resolved, build_stacks(resolved.tables, "CPU", (), placement), placement, Alone()
    )


def make_batches(
    resolved: Resolved, devices: int, batches: list[Any], training: bool, size: int, fast: bool
) -> list[HostBatch]:
    """The host batches, one after another, with the fast path or as the reference makes them."""
    batcher, made = make_batcher(resolved, devices), []
    shapes = [None] * len(resolved.features)
    for batch in batches:
        bags = parse_features(resolved, batch, None, None, "raise", shapes)
        if not fast:
            bags = [*bags]
        samples = SampleCount(resolved, size, 1).of(bags, shapes, training)
        # Keys so dense that they would be marked are sorted on the fast side, and marked on the other.
        limits = {"_MOST_RANKS": 1 << 23, "_MARKS_PER_KEY": 0} if fast else {"_MOST_RANKS": 0}
        with mock.patch.multiple(dedup, **limits):
            made.append(batcher.make(bags, training, samples))
    return made


def assert_same(one: HostBatch, other: HostBatch) -> None:
    assert one.shapes == other.shapes
    assert torch.equal(one.ints, other.ints)
    assert torch.equal(one.floats, other.floats)
    for mine, its in zip(one.records, other.records, strict=True):
        assert all(map(torch.equal, mine, its))
    assert (one.cut, one.name, len(one.round_batches)) == (
        other.cut,
        other.name,
        len(other.round_batches),
    )


def assert_same_bags(one: Bags, other: Bags) -> None:
    for name in ("ids", "bag", "gain"):
        mine, its = getattr(one, name), getattr(other, name)
        assert (mine is None) == (its is None)
        assert mine is None or (torch.equal(mine, its) and mine.dtype == its.dtype)
    assert one.shape == other.shape
    assert (one.num_ids, one.num_dropped, one.length) == (
        other.num_ids,
        other.num_dropped,
        other.length,
    )

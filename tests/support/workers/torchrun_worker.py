"""Each process that test_torchrun.py and test_lost_processes.py launch.

`torchrun_worker.py laws --directory DIR` trains and writes what it saw; `endless` trains until it is ended.

Letters: B batch of all processes, S processes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import helpers
from places import SLOW

import torch_tpu_embedding as tte
from torch_tpu_embedding import distributed
from torch_tpu_embedding.distributed import group
from torch_tpu_embedding.distributed.placement import STRATEGIES, Strategy

BATCH = 12  # for 1, 2, 3 and 4 processes
STEPS, WARM_UP = 5, 3
BAD_ID = 1_000_003

OPTIMIZERS = {
    "sgd": tte.SGD(0.1, weight_decay_factor=0.1, clipvalue=(-0.5, None)),
    "adagrad": tte.Adagrad(0.1),
    "rowwise": tte.RowWiseAdagrad(0.1),
    "momentum": tte.AdagradMomentum(0.1, momentum=0.9, use_nesterov=True),
    "ftrl": tte.FTRL(0.1, l1_regularization_strength=0.02, beta=0.1),
    "adam": tte.Adam(0.1, epsilon=1e-3),
    "each": tte.Adagrad(0.1, use_gradient_accumulation=False),
}
VOCABULARIES = (1, 2, 7, 103, 11, 29, 5)
COMBINERS = ("sum", "mean", "sqrtn")


def feature_config() -> list[tte.FeatureConfig]:
    """A table for every optimizer, with a feature of one id a sample and one of several."""
    features = []
    parts = zip(OPTIMIZERS.items(), VOCABULARIES, itertools.cycle(COMBINERS), strict=False)
    for number, ((name, optimizer), vocabulary, combiner) in enumerate(parts):
        table = tte.TableConfig(vocabulary, 4, optimizer=optimizer, combiner=combiner, name=name)
        length = 3 if number == 4 else 0
        features.append(tte.FeatureConfig(table, name=f"{name}-one"))
        features.append(tte.FeatureConfig(table, name=f"{name}-many", max_sequence_length=length))
    return features


def inputs(step: int, positions: torch.Tensor) -> tuple[list[Any], list[Any]]:
    """Ids and weights of some samples of a batch that is the same in every process."""
    rng = np.random.default_rng(step)
    ids: list[Any] = []
    weights: list[Any] = []
    for number, vocabulary in enumerate(VOCABULARIES):
        ids.append(torch.from_numpy(rng.integers(0, vocabulary, BATCH))[positions])
        weights.append(None)
        lengths = rng.permutation(BATCH) % 4  # also 0
        bags = [rng.integers(0, vocabulary, length).tolist() for length in lengths]
        gains = [rng.uniform(0.5, 2, length).round(3).tolist() for length in lengths]
        kind = helpers.KINDS[number % len(helpers.KINDS)]
        mine = positions.tolist()
        ids.append(helpers.as_kind([bags[p] for p in mine], kind))
        weighted = number % 2 == 1
        chosen = [gains[p] for p in mine]
        weights.append(helpers.as_kind(chosen, kind, torch.float32) if weighted else None)
    return ids, weights


def train(strategy: Strategy) -> dict[str, Any]:
    """A few steps; gives what this process saw and holds, and how often it compiled."""
    embedding = tte.TPUEmbedding(feature_config(), BATCH, None, seed=5, sharding=strategy)
    positions, _ = distributed.local_positions(BATCH, BATCH)
    seen, compiles = [], []
    for step in range(STEPS):
        embedding.enqueue(*inputs(step, positions))
        activations = embedding.dequeue()
        tte.runtime.sync()
        held = [each.detach().cpu() for each in activations]
        embedding.apply_gradients([(each.sin() + 0.1).to(embedding.device) for each in held])
        tte.runtime.sync()
        seen.append(held)
        compiles.append(tte.runtime.compile_count())
    ids = [
        embedding.placement.ids(number, table.vocabulary_size)
        for number, table in enumerate(embedding.resolved.tables)
    ]
    names = [table.name for table in embedding.resolved.tables]
    return {
        "activations": seen,
        "state": helpers.tensors(embedding),
        "ids": {name: list(held) for name, held in zip(names, ids, strict=True)},
        "late_compiles": compiles[-1] - compiles[WARM_UP - 1],
    }


def clipped_steps() -> dict[str, Any]:
    """Two steps of two micro-batches, clipped by the norm of tables and dense model, and what they gave."""
    features = [f for f in feature_config() if not f.name.startswith("each")]
    numbers = [n for n, f in enumerate(feature_config()) if not f.name.startswith("each")]
    embedding = tte.TPUEmbedding(features, BATCH, None, seed=5)
    weight = torch.full((4,), 0.5, requires_grad=True, device=embedding.device)
    positions, _ = distributed.local_positions(BATCH, BATCH)
    norms = []
    for step in range(2):
        for micro in range(2):
            ids, weights = inputs(2 * step + micro, positions)
            chosen = ([ids[n] for n in numbers], [weights[n] for n in numbers])
            embedding.enqueue(*chosen)
            activations = embedding.dequeue()
            sum((each * weight).square().sum() for each in activations).backward()
            if not micro:
                embedding.accumulate_gradients()
        if step == 0 and distributed.world_size() > 1:
            refuse_unequal(embedding, weight)
        distributed.sum_gradients([weight])
        norm = embedding.clip_grad_norm_(1.0, dense_parameters=[weight])
        embedding.apply_gradients()
        with torch.no_grad():
            weight.sub_(weight.grad * 0.1)
        weight.grad = None
        tte.runtime.sync()
        norms.append(norm.cpu())
    ids_of = {
        table.name: list(embedding.placement.ids(number, table.vocabulary_size))
        for number, table in enumerate(embedding.resolved.tables)
    }
    return {
        "norms": norms,
        "weight": weight.detach().cpu(),
        "state": helpers.tensors(embedding),
        "ids": ids_of,
    }


def refuse_unequal(embedding: tte.TPUEmbedding, weight: torch.Tensor) -> None:
    """Clipping before `sum_gradients` raises on every process."""
    kept = weight.grad
    weight.grad = weight.grad * (1 + distributed.rank())
    with pytest.raises(ValueError, match=r"call distributed.sum_gradients\(parameters\) first"):
        embedding.clip_grad_norm_(1.0, dense_parameters=[weight])
    weight.grad = kept


def small() -> tte.TPUEmbedding:
    table = tte.TableConfig(100, 4, name="users")
    return tte.TPUEmbedding({"user": tte.FeatureConfig(table)}, BATCH, tte.SGD(0.1), seed=1)


def step(embedding: tte.TPUEmbedding, ids: torch.Tensor) -> None:
    embedding({"user": ids})["user"].square().sum().backward()
    embedding.apply_gradients()


def load_twice() -> list[dict[str, Any]]:
    """Padded sizes and compiles after each of two loaders; one process has larger batches in the first."""
    table = tte.TableConfig(100, 4, name="users", combiner="sum")
    embedding = tte.TPUEmbedding({"user": tte.FeatureConfig(table)}, BATCH, tte.SGD(0.1), seed=1)

    def batch(length: int) -> dict[str, tte.Ragged]:
        lengths = torch.full((embedding.local_batch_size,), length)
        return {"user": tte.Ragged.from_lengths(torch.arange(int(lengths.sum())) % 100, lengths)}

    found = []
    for last in (9 if distributed.rank() == 1 else 1, 1):
        for _ in tte.EmbeddingLoader([batch(1), batch(last)], embedding):
            embedding.dequeue()["user"].square().sum().backward()
            embedding.apply_gradients()
            tte.runtime.sync()
        shapes = embedding._steps.prepare(batch(1), None, True).sent.shapes
        padded = [(each.num_unique, each.num_ragged, each.positions_per_device) for each in shapes]
        found.append({"sizes": padded, "compiles": tte.runtime.compile_count()})
    return found


MORE = {"loaders": load_twice, "clipped": clipped_steps}


def laws(
    directory: Path, bad_rank: int | None, strategies: Sequence[Strategy], also: Sequence[str]
) -> None:
    """Train and save the results; then, if asked, let one process enqueue an id that is not there."""
    found: dict[str, Any] = {strategy: train(strategy) for strategy in strategies}
    found |= {name: MORE[name]() for name in also}
    torch.save(found, directory / f"rank-{distributed.rank()}.pt")
    if bad_rank is not None:
        embedding = small()
        ids = torch.arange(embedding.local_batch_size)
        step(embedding, ids)
        if distributed.rank() == bad_rank:
            ids[1] = BAD_ID
        (directory / f"bad-{distributed.rank()}").write_text(str(time.time()))
        step(embedding, ids)


def train_first() -> float:
    """Build and do the first steps; seconds that it took here."""
    begin = time.monotonic()
    embedding = small()
    for _ in range(3):
        step(embedding, torch.arange(embedding.local_batch_size))
        tte.runtime.sync()
    return time.monotonic() - begin


def endless(bad_rank: int | None, exits: bool, impatient: bool) -> None:
    """Train until something happens; says when the first steps are done.

    Args:
        bad_rank: the process that then ends by an error of its own, without `shutdown`.
        exits: it ends by `sys.exit` instead.
        impatient: wait for the other processes twice as long as this machine needs to compile and train,
            and say how many seconds that are.
    """
    if impatient:
        timeout = max(4.0, 2 * train_first())
        group.set_timeout(timedelta(seconds=timeout))
        print(f"timeout {timeout}", flush=True)
    embedding = small()
    for number in itertools.count():
        step(embedding, torch.arange(embedding.local_batch_size))
        tte.runtime.sync()
        if number == 3:
            print("trains", flush=True)
            if distributed.rank() == bad_rank:
                if exits:
                    sys.exit("mine")
                raise ZeroDivisionError("mine")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("laws", "endless"))
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--bad-rank", type=int)
    parser.add_argument("--exits", action="store_true")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--also", nargs="+", choices=MORE, default=[])
    parser.add_argument("--impatient", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    distributed.initialize(timeout=timedelta(seconds=60.0 * SLOW))
    if args.work == "laws":
        laws(args.directory, args.bad_rank, args.strategies, args.also)
    else:
        endless(args.bad_rank, args.exits, args.impatient)
    distributed.shutdown()

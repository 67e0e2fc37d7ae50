"""Errors that name a remedy: what provokes each, and the remedies done. `test_remedies.py` runs them.

Not here, for they need several processes or machines: errors of lost, dead or differing processes
(`test_torchrun.py`, `test_lost_processes.py`, `test_checkpoint_crash.py`), and of devices that are not
there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding import serving_embedding_lookup

Step = Callable[[], object]
Case = Callable[[Path], tuple[Step, ...]]

CASES: list[tuple[str, Case]] = []
"""A pattern of the message, and what makes (provoke, remedy, another remedy, …) from an empty folder."""


def says(message: str) -> Callable[[Case], Case]:
    def add(case: Case) -> Case:
        CASES.append((message, case))
        return case

    return add


def lists(*rows: list[Any], dtype: torch.dtype | None = None) -> tte.Ragged:
    return tte.Ragged.from_lists(rows, dtype=dtype)


IDS, BAGS = torch.tensor([1, 2]), lists([1, 2], [3])
WEIGHTS = lists([1.0, 2.0], [3.0])


def make(optimizer: Any = None, table: Any = None, feature: Any = None, **options: Any) -> Any:
    """An embedding of one feature 'f' on table 't'."""
    config = tte.TableConfig(9, 4, name="t", **(table or {}))
    features = {"f": tte.FeatureConfig(config, **(feature or {}))}
    return tte.TPUEmbedding(features, 2, optimizer or tte.SGD(0.1), seed=1, **options)


def serve(ids: Any, weights: Any = None, feature: Any = None, **table: Any) -> Any:
    """One feature looked up on the CPU."""
    held = tte.TableConfig(table.pop("vocabulary_size", 9), 4, name="t", **table)
    config = {"f": tte.FeatureConfig(held, **(feature or {}))}
    values = {held: torch.ones(held.vocabulary_size, 4)}
    given = None if weights is None else {"f": weights}
    return serving_embedding_lookup({"f": ids}, given, values, config)


def train(embedding: Any, apply: Step | None = None) -> None:
    embedding({"f": IDS})["f"].sum().backward()
    (apply or embedding.apply_gradients)()

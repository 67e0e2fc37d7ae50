"""Every optimizer, a small configuration, batches for it, and the engine on plain tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch
from models import helpers
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.learning_rates import current_rates
from torch_tpu_embedding.config.resolved import Resolved, resolve
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.accumulation import Merger
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.program.gradient_norm import clip_factor, total_norm
from torch_tpu_embedding.reference import Sample
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables.start_values import start_values

CPU = torch.device("cpu")
BATCH = 4
LAYOUTS: tuple[DeviceKind, ...] = ("CPU", "TPU")
OPTIMIZERS = {
    "sgd": tte.SGD(0.1),
    "sgd-decay-clip": tte.SGD(
        0.1, weight_decay_factor=0.1, clipvalue=(-0.5, None), clip_weight_max=0.4
    ),
    "adagrad": tte.Adagrad(0.1),
    "adagrad-decay": tte.Adagrad(
        0.1, weight_decay_factor=0.5, multiply_weight_decay_factor_by_learning_rate=True
    ),
    "rowwise": tte.optimizers.RowWiseAdagrad(0.1),
    "momentum": tte.optimizers.AdagradMomentum(
        0.1, momentum=0.9, use_nesterov=True, exponent=3.0, beta2=0.9, epsilon=0.1
    ),
    "ftrl": tte.optimizers.FTRL(0.1, l1_regularization_strength=0.02, beta=0.1),
    "ftrl-linear": tte.optimizers.FTRL(
        0.1,
        learning_rate_power=-0.7,
        l2_regularization_strength=0.1,
        multiply_linear_by_learning_rate=True,
    ),
    "adam": tte.Adam(0.1, epsilon=1e-3),
    "adagrad-each": tte.Adagrad(0.1, use_gradient_accumulation=False),
    "adam-each": tte.Adam(0.1, epsilon=1e-3, use_gradient_accumulation=False),
    "sgd-each": tte.SGD(0.1, use_gradient_accumulation=False),
    "sgd-each-clip": tte.SGD(0.1, use_gradient_accumulation=False, clip_weight_max=0.4),
    "adam-not-lazy": tte.Adam(0.1, epsilon=1e-3, lazy_adam=False),
    "adam-eps-outside": tte.Adam(0.1, epsilon=1e-3, sum_inside_sqrt=False, clipvalue=0.3),
}
AMPLIFIED = dict.fromkeys(("adam", "adam-not-lazy", "adam-eps-outside"), 4e-7 * 0.1 / 1e-3)
"""Absolute tolerance where an optimizer amplifies how a gradient's sum was rounded (some 4e-7, for sums of
a few ones): Adam's m / (√v + ε) and m / √(v + ε²) do by up to learning_rate / ε where v is small."""
Batch = list[list[Sample]]


def config(optimizer: tte.optimizers.Optimizer) -> list[tte.FeatureConfig]:
    """Four tables in three stacks, two features on one table, every combiner, one sequence."""
    a = tte.TableConfig(7, 4, combiner="sum", name="a")
    b = tte.TableConfig(5, 4, combiner="mean", name="b")
    c = tte.TableConfig(9, 3, combiner="sqrtn", name="c")
    own = tte.TableConfig(6, 4, combiner="mean", name="own", optimizer=tte.SGD(0.3))
    return [
        tte.FeatureConfig(a, name="a0"),
        tte.FeatureConfig(b, name="b0"),
        tte.FeatureConfig(a, name="a1"),
        tte.FeatureConfig(c, name="c0"),
        tte.FeatureConfig(own, name="own0"),
        tte.FeatureConfig(b, name="sequence", max_sequence_length=3),
    ]


@st.composite
def batches(draw: st.DrawFn, weighted: bool = True) -> Batch:
    """One batch for `config`, with empty bags, repeated ids, and weights.

    Hypothesis draws the length of the longest bag and a seed; to draw each id took it longer than the step.
    """
    longest, numbers = draw(st.integers(0, 5)), np.random.default_rng(draw(st.integers(0, 2**24)))
    batch = []
    for feature in config(tte.SGD()):
        bags = []
        for length in numbers.integers(0, longest + 1, BATCH).tolist():
            ids = numbers.integers(0, feature.table.vocabulary_size, length).tolist()
            weights = np.float32(numbers.uniform(0.25, 2.0, length)).tolist()
            if feature.max_sequence_length or not weighted:
                weights = [1.0] * length
            bags.append([*zip(ids, weights, strict=True)])
        batch.append(bags)
    return batch


def share(batch: Batch, rank: int, size: int) -> Batch:
    """The samples of one process: those of a batch of BATCH · size samples that are its own."""
    return [samples[rank * BATCH : (rank + 1) * BATCH] for samples in batch]


def join(parts: Sequence[Batch]) -> Batch:
    """One batch of the samples of all processes."""
    return [[sample for part in parts for sample in part[f]] for f in range(len(parts[0]))]


class Fast:
    """The engine on plain torch tensors, fed with the reference's batches."""

    def __init__(
        self,
        features: Sequence[tte.FeatureConfig],
        optimizer: tte.optimizers.Optimizer,
        kind: DeviceKind,
        row_kernels: bool = False,
    ) -> None:
        self.resolved: Resolved = resolve(list(features), optimizer)
        self.engine = Engine(self.resolved, torch.device("cpu"), kind, row_kernels=row_kernels)
        self.engine.store.fill(lambda t: start_values(self.resolved.tables[t], seed=0))

    def step(self, batch: Batch, kind: str = "ragged", train: bool = True) -> list[Tensor]:
        ids, weights = helpers.as_inputs(batch, kind)
        bags = [
            parse(f, self.resolved.table_of(f), i, None if f.max_sequence_length else w)
            for f, i, w in zip(self.resolved.features, ids, weights, strict=True)
        ]
        looked_up, activations = self.engine.look_up(self.engine.send(bags))
        if train:
            gradients = [helpers.gradient_of(each) for each in activations]
            self.engine.update(looked_up, gradients, current_rates(self.resolved.tables))
        return activations

    def state(self) -> dict[str, Tensor]:
        held = self.engine.store.read()
        return {
            f"{self.resolved.tables[t].name}.{field}": value
            for t, fields in held.items()
            for field, value in fields.items()
        }


def step_of_several(
    engine: Engine, resolved: Any, micro: Sequence[Batch], kind: str, limit: float = math.inf
) -> float:
    """One update of several micro-batches, clipped; gives the norm of the gradient."""
    sent, sums, seen = [], [], []
    for batch in micro:
        ids, weights = helpers.as_inputs(batch, kind)
        bags = [
            parse(f, resolved.table_of(f), i, None if f.max_sequence_length else w)
            for f, i, w in zip(resolved.features, ids, weights, strict=True)
        ]
        looked_up, activations = engine.look_up(engine.send(bags))
        gradients = [helpers.gradient_of(each) for each in activations]
        sent.append(looked_up.batch)
        sums.append(engine.sum_gradients(looked_up.batch, gradients))
        seen.append(activations)
    merged = Merger(resolved, engine).merge(sent, sums, seen)
    device = seen[0][0].device
    norm = total_norm(engine.exchange, merged.row_gradients, [], 2.0, device)
    factor = clip_factor(norm, torch.tensor([limit]).to(device))
    merged.row_gradients = {n: each * factor for n, each in merged.row_gradients.items()}
    engine.update(merged, [], current_rates(resolved.tables))
    if tte.runtime.is_accelerated(device):
        tte.runtime.sync()
    return float(norm)


def assert_close(
    found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 2e-5
) -> None:
    assert set(found) == set(wanted)
    for key, value in found.items():
        torch.testing.assert_close(
            value.to(torch.float64), wanted[key].to(torch.float64), rtol=tolerance, atol=tolerance,
            msg=lambda text, key=key: f"{key}: {text}",
        )  # fmt: skip


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for key, value in found.items():
        assert torch.equal(value, wanted[key]), key

"""The program of a dense optimizer's step: all is updated in place, and no number is part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from models.dense_cases import CASES, IDS, gradients, makers, parameters, take_steps
from places import SUPPORT
from programs.traced import report_of
from torch.optim.lr_scheduler import OneCycleLR

import torch_tpu_embedding as tte


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_every_parameter_and_every_tensor_of_the_state_is_updated_in_place(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    script = SUPPORT / "programs" / "dense_step.py"
    report = report_of([str(script), str(tmp_path / "dump"), name, json.dumps(settings)])
    assert report["aliased"] == report["held"]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_schedule_that_changes_rate_and_momentum_at_each_step_compiles_nothing(name: str) -> None:
    held = parameters(tte.runtime.device())
    optimizer = makers(name, {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})})[1](held)
    schedule = OneCycleLR(optimizer, max_lr=0.5, total_steps=40)
    take_steps(optimizer, held, gradients(), 3, between=lambda _: schedule.step())
    compiled, left = tte.runtime.compile_count(), tte.runtime.cpu_fallbacks()
    take_steps(optimizer, held, gradients(), 20, between=lambda _: schedule.step())
    assert tte.runtime.compile_count() == compiled
    assert tte.runtime.cpu_fallbacks() == left, "no operator left the device"


def test_every_number_of_every_group_may_change_without_a_compile() -> None:
    values: dict[str, list[Any]] = {
        "SGD": [("lr", 0.2), ("momentum", 0.5), ("dampening", 0.3), ("weight_decay", 0.2)],
        "Adagrad": [("lr", 0.2), ("lr_decay", 0.3), ("weight_decay", 0.2), ("eps", 1e-3)],
        "Adam": [("lr", 0.2), ("betas", (0.5, 0.8)), ("weight_decay", 0.2), ("eps", 1e-3)],
    }
    start = {
        "SGD": {"momentum": 0.9, "weight_decay": 0.1},
        "Adagrad": {"lr_decay": 0.1, "weight_decay": 0.1},
        "Adam": {"weight_decay": 0.1},
    }
    for name, changes in values.items():
        held = parameters(tte.runtime.device())
        optimizer = makers(name, start[name])[1]([{"params": held[:1]}, {"params": held[1:]}])
        assert isinstance(optimizer, tte.dense_optimizers.base.DenseOptimizer)
        assert optimizer.rates.names == {key for key, _ in changes}
        take_steps(optimizer, held, gradients(), 3)
        compiled, structure = tte.runtime.compile_count(), optimizer.rates.structure()
        for group in optimizer.param_groups:
            for key, value in changes:
                group[key] = value
                take_steps(optimizer, held, gradients(), 1)
        assert tte.runtime.compile_count() == compiled, name
        assert optimizer.rates.structure() == structure
        optimizer.param_groups[0]["weight_decay"] = 0.0  # a term is gone
        assert optimizer.rates.structure() != structure


def test_the_vector_is_sent_again_only_where_a_number_has_changed() -> None:
    device = tte.runtime.device()
    held = parameters(device)
    optimizer = tte.dense_optimizers.Adam(held)
    assert optimizer.rates.vectors() == {}
    take_steps(optimizer, held, gradients(), 2)
    (vector,) = optimizer.rates.vectors().values()
    assert vector.numel() < 16
    take_steps(optimizer, held, gradients(), 1)
    assert optimizer.rates.vectors()[device] is vector
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.send_rates()
    sent = optimizer.rates.vectors()[device]
    assert float(sent[0]) == -0.5
    take_steps(optimizer, held, gradients(), 1)
    assert optimizer.rates.vectors()[device] is sent

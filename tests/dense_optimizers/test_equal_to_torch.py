"""Dense optimizers take the steps that torch.optim's take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.dense_cases import (
    CASES,
    EXACT_ON_XLA,
    IDS,
    assert_equal,
    gradients,
    makers,
    parameters,
    take_steps,
)
from torch.optim import lr_scheduler

import torch_tpu_embedding as tte

STEPS = 30
SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "OneCycleLR": lambda each: lr_scheduler.OneCycleLR(each, max_lr=0.1, total_steps=STEPS + 1),
    "CyclicLR": lambda each: lr_scheduler.CyclicLR(
        each, base_lr=0.001, max_lr=0.1, step_size_up=4, cycle_momentum="momentum" in each.defaults
    ),
    "warm-up from 0": lambda each: lr_scheduler.LambdaLR(each, lambda step: min(step / 5, 1.0)),
    "SequentialLR": lambda each: lr_scheduler.SequentialLR(
        each,
        [lr_scheduler.LinearLR(each, 0.1), lr_scheduler.CosineAnnealingLR(each, 20)],
        milestones=[5],
    ),
    "ReduceLROnPlateau": lambda each: _Plateau(each, patience=2),
    "SWALR": lambda each: torch.optim.swa_utils.SWALR(each, 0.05, anneal_epochs=5),
}


class _Plateau(lr_scheduler.ReduceLROnPlateau):
    def step(self, *args: Any) -> None:  # type: ignore[override]
        super().step(1.0)


@st.composite
def settings_of(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(["SGD", "Adagrad", "Adam", "AdamW"]))
    settings: dict[str, Any] = {
        "lr": draw(st.floats(0, 0.5)),
        "weight_decay": draw(st.sampled_from([0.0, 0.1])),
        "maximize": draw(st.booleans()),
    }
    if name == "SGD":
        settings["momentum"] = draw(st.sampled_from([0.0, 0.9]))
        settings["nesterov"] = settings["momentum"] > 0 and draw(st.booleans())
        settings["dampening"] = 0.0 if settings["nesterov"] else draw(st.floats(-0.5, 1.5))
    elif name == "Adagrad":
        settings["lr_decay"] = draw(st.sampled_from([0.0, 0.3]))
        settings["initial_accumulator_value"] = draw(st.sampled_from([0.0, 0.1]))
        settings["eps"] = draw(st.floats(1e-10, 1e-2))
    else:
        settings["betas"] = draw(st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)))
        settings["amsgrad"] = draw(st.booleans())
        settings["eps"] = draw(st.floats(1e-8, 1e-2))
    return name, settings


@given(
    settings_of(),
    st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=8),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_on_the_cpu_steps_and_states_are_torchs_to_the_bit_whichever_gradients_are_missing(
    case: tuple[str, dict[str, Any]], missing: list[set[int]], dtype: torch.dtype
) -> None:
    found = []
    for make in makers(*case):
        held = [torch.nn.Parameter(each.detach().to(dtype)) for each in parameters()]
        drawn = ([each.to(dtype) for each in every] for every in gradients())
        optimizer = make(held)
        take_steps(optimizer, held, drawn, len(missing), missing.__getitem__)
        found.append(([each.detach() for each in held], optimizer.state_dict()["state"]))
    (weights, state), (ours, our_state) = found
    assert_equal(ours, weights)
    assert_equal(our_state, {key: _present(each) for key, each in state.items() if _present(each)})


def _present(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_on_an_xla_device_steps_are_torchs_to_the_bit_where_the_formula_is_the_same(
    name: str, settings: dict[str, Any]
) -> None:
    device = tte.runtime.device()
    found = []
    for make in makers(name, settings):
        held = parameters(device)
        take_steps(make(held), held, gradients(), STEPS)
        found.append([each.detach().cpu() for each in held])
    weights, ours = found
    if (name, settings) in EXACT_ON_XLA:
        assert_equal(ours, weights)
        return
    largest = max(float(each.abs().max()) for each in weights)
    # 1e-6 of a change, which is hardly ever above lr, and the rounding of the weights
    bound = STEPS * (2e-6 * settings["lr"] * 3 + 2**-24 * largest)
    for mine, theirs in zip(ours, weights, strict=True):
        assert float((mine - theirs).abs().max()) <= bound


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_schedules_of_torch_set_what_they_set_for_torchs_optimizers(
    name: str, schedule: str
) -> None:
    settings = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    if schedule == "OneCycleLR" and name == "Adagrad":
        for make in makers(name, settings):
            with pytest.raises(ValueError, match="momentum"):  # torch says so itself
                SCHEDULES[schedule](make(parameters()))
        return
    found = []
    for make in makers(name, settings):
        held = parameters()
        optimizer = make(held)
        scheduler = SCHEDULES[schedule](optimizer)
        take_steps(
            optimizer, held, gradients(), STEPS, between=lambda _, each=scheduler: each.step()
        )
        keys = ("lr", "betas", "momentum")
        group = {key: optimizer.param_groups[0].get(key) for key in keys}
        found.append(([each.detach() for each in held], group))
    assert_equal(found[1][0], found[0][0])
    assert found[1][1] == found[0][1]


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_groups_have_their_own_numbers_and_a_group_may_be_added_later(name: str) -> None:
    found = []
    for make in makers(name, {"lr": 0.1}):
        held = parameters()
        optimizer = make(
            [{"params": held[:2], "lr": 0.01}, {"params": held[2:3], "weight_decay": 0.1}]
        )
        take_steps(optimizer, held, gradients(), 3)
        if name == "Adagrad" and optimizer.__class__.__module__.startswith("torch.optim"):
            # torch.optim.Adagrad gives no state to groups that come later
            optimizer.state[held[3]] = {"step": torch.tensor(0.0), "sum": torch.zeros(5)}
        optimizer.add_param_group({"params": held[3:], "lr": 0.5})
        take_steps(optimizer, held, gradients(2), 3)
        found.append([each.detach() for each in held])
    assert_equal(found[1], found[0])


def test_a_closure_is_evaluated_with_gradients_and_its_value_returned() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = tte.dense_optimizers.SGD([weight], lr=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.no_grad():
        assert float(optimizer.step(closure)) == 3.0
    assert weight.tolist() == [0.0, 0.0, 0.0]


def test_a_learning_rate_of_zero_changes_no_weight_on_an_xla_device() -> None:
    device = tte.runtime.device()
    for name in ("SGD", "Adagrad", "Adam", "AdamW"):
        held = parameters(device)
        before = [each.detach().cpu() for each in held]
        _, make = makers(name, {"lr": 0.0})
        take_steps(make(held), held, gradients(), 2)
        assert_equal([each.detach().cpu() for each in held], before)


def test_inference_mode_and_autocast_of_the_caller_do_not_reach_a_step() -> None:
    found = []
    for inside in (False, True):
        held = parameters()
        _, make = makers("Adam", {"lr": 0.1})
        optimizer = make(held)
        for each, gradient in zip(held, next(gradients()), strict=True):
            each.grad = gradient
        with torch.inference_mode(inside), torch.autocast("cpu", enabled=inside):
            optimizer.step()
        take_steps(optimizer, held, gradients(2), 2)  # fails for states made in inference mode
        found.append([each.detach() for each in held])
    assert_equal(found[1], found[0])

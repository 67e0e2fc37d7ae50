"""States of dense optimizers: torch.optim's and theirs load each other's, copies and pickles go on."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
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

import torch_tpu_embedding as tte


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a file gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file)
    return found


def continued(
    first: int, second: int, case: tuple[str, dict[str, Any]], device: torch.device
) -> Any:
    """Weights and state after 5 steps with one optimizer and 5 with another that loads its state.

    Args:
        first, second: 0 for torch.optim's, 1 for this package's.
    """
    makes = makers(*case)
    held = parameters(device)
    drawn = gradients()
    missing = [set(), {1}, {1, 2}, set(), {3}]
    optimizer = makes[first](held)
    take_steps(optimizer, held, drawn, 5, missing.__getitem__)
    state = optimizer.state_dict()
    optimizer = makes[second](held)
    optimizer.load_state_dict(saved(state))
    take_steps(optimizer, held, drawn, 5)
    return [each.detach().cpu() for each in held], optimizer.state_dict()["state"]


@pytest.mark.parametrize("way", [(0, 1), (1, 0), (1, 1)], ids=["from torch", "to torch", "own"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_state_loads_both_ways_on_the_cpu(
    case: tuple[str, dict[str, Any]], way: tuple[int, int]
) -> None:
    device = torch.device("cpu")
    assert_equal([*continued(*way, case, device)], [*continued(0, 0, case, device)])


@pytest.mark.parametrize("way", [(0, 1), (1, 0)], ids=["from torch", "to torch"])
@pytest.mark.parametrize(
    "case", [EXACT_ON_XLA[2], EXACT_ON_XLA[4], ("Adam", {"lr": 0.01}), ("AdamW", {"lr": 0.01})]
)
def test_a_state_loads_both_ways_on_an_xla_device(
    case: tuple[str, dict[str, Any]], way: tuple[int, int]
) -> None:
    device = tte.runtime.device()
    tolerance = {} if case in EXACT_ON_XLA else {"rtol": 1e-5, "atol": 1e-6}
    assert_equal([*continued(*way, case, device)], [*continued(0, 0, case, device)], **tolerance)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_step_counts_of_a_capturable_optimizer_are_taken_over(name: str) -> None:
    device = tte.runtime.device()
    held = parameters(device)
    of_torch = getattr(torch.optim, name)(held, lr=0.01, capturable=True)
    take_steps(of_torch, held, gradients(), 3)
    _, make = makers(name, {"lr": 0.01})
    ours = make(held)
    ours.load_state_dict(of_torch.state_dict())
    take_steps(ours, held, gradients(), 1)
    counts = [each["step"] for each in ours.state_dict()["state"].values()]
    assert [float(each) for each in counts] == [4.0] * 4
    assert "capturable" not in ours.param_groups[0]


def test_parameters_that_stay_behind_have_a_count_of_their_own_in_the_state() -> None:
    for device in (torch.device("cpu"), tte.runtime.device()):
        held = parameters(device)
        _, make = makers("Adam", {})
        optimizer = make(held)
        take_steps(optimizer, held, gradients(), 4, lambda step: {1} if step == 2 else set())
        counts = {key: float(each["step"]) for key, each in optimizer.state_dict()["state"].items()}
        assert counts == {0: 4.0, 1: 3.0, 2: 4.0, 3: 4.0}
        tensors = {id(each["step"]) for each in optimizer.state.values()}
        assert len(tensors) == 2, "one for all that have taken the same steps"
        tensors = {id(each["step"]) for each in optimizer.state_dict()["state"].values()}
        assert len(tensors) == 4, "torch.optim counts each by itself"


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_a_copy_and_a_pickle_go_on_like_the_original(name: str) -> None:
    settings = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    held = parameters()
    optimizer = makers(name, settings)[1](held)
    take_steps(optimizer, held, gradients(), 3)
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    take_steps(optimizer, held, gradients(2), 3)
    for each in copies:
        own = [parameter for group in each.param_groups for parameter in group["params"]]
        take_steps(each, own, gradients(2), 3)
        assert_equal([p.detach() for p in own], [p.detach() for p in held])
        assert_equal(each.state_dict()["state"], optimizer.state_dict()["state"])


def test_a_state_of_plain_adam_decays_decoupled_in_adamw_as_in_torch(tmp_path: Path) -> None:
    found = []
    for make_adam, make_adamw in zip(
        makers("Adam", {"weight_decay": 0.1}), makers("AdamW", {}), strict=True
    ):
        held = parameters()
        adam = make_adam(held)
        take_steps(adam, held, gradients(), 2)
        adamw = make_adamw(held)
        adamw.load_state_dict(adam.state_dict())
        take_steps(adamw, held, gradients(2), 2)
        found.append([each.detach() for each in held])
    assert_equal(found[1], found[0])

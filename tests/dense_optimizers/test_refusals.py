"""Dense optimizers refuse what they cannot do before anything has changed, and their remedies help."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.dense_cases import assert_equal, gradients, makers, parameters, take_steps

import torch_tpu_embedding as tte

NAMES = ["SGD", "Adagrad", "Adam", "AdamW"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("argument", ["foreach", "fused", "capturable", "differentiable"])
def test_arguments_that_choose_an_implementation_are_refused(name: str, argument: str) -> None:
    _, make = makers(name, {argument: False})
    with pytest.raises(
        TypeError, match=rf"{name}: '{argument}' is not an argument \(.*leave it out"
    ):
        make(parameters())
    _, make = makers(name, {})
    with pytest.raises(TypeError, match=rf"{name}: '{argument}' is not a key of a group"):
        make([{"params": parameters(), argument: True}])
    make([{"params": parameters()}])


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match=r"SGD: 'learning_rate' is not an argument"):
        tte.dense_optimizers.SGD(parameters(), learning_rate=0.1)
    with pytest.raises(TypeError, match=r"AdamW: 'decoupled_weight_decay' .* \(it is always so\)"):
        tte.dense_optimizers.AdamW(parameters(), decoupled_weight_decay=False)


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        (
            "SGD",
            {"lr": -0.1},
            r"lr of param group 0 must be a finite number of at least 0, got -0.1",
        ),
        ("SGD", {"lr": float("nan")}, "lr of param group 0 must be a finite number .*, got nan"),
        ("SGD", {"lr": "0.1"}, "lr .* got '0.1'"),
        (
            "SGD",
            {"dampening": float("inf")},
            "dampening of param group 0 must be a finite number, got inf",
        ),
        (
            "SGD",
            {"nesterov": True},
            "nesterov=True needs a momentum above 0 and a dampening of 0, got",
        ),
        ("Adagrad", {"initial_accumulator_value": -1.0}, "initial_accumulator_value .* at least 0"),
        ("Adam", {"betas": (0.9, 1.0)}, r"betas\[1\] .* of at least 0 and below 1, got 1.0"),
        ("AdamW", {"eps": -1.0}, "AdamW: eps of param group 0"),
    ],
)
def test_a_wrong_number_is_refused_by_the_constructor_and_by_a_step_that_changes_nothing(
    name: str, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        makers(name, settings)[1](parameters())
    held = parameters()
    optimizer = makers(name, {})[1](held)
    take_steps(optimizer, held, gradients(), 2)
    good = {key: optimizer.param_groups[0][key] for key in settings}
    before = [[each.detach().clone() for each in held], optimizer.state_dict()["state"]]
    before = [before[0], {key: {**each} for key, each in before[1].items()}]
    optimizer.param_groups[0].update(settings)
    with pytest.raises(ValueError, match=text):
        take_steps(optimizer, held, gradients(2), 1)
    assert_equal([[each.detach() for each in held], optimizer.state_dict()["state"]], before)
    optimizer.param_groups[0].update(good)
    take_steps(optimizer, held, gradients(2), 1)


def test_a_wrong_group_is_not_added() -> None:
    first, *others = parameters()
    optimizer = tte.dense_optimizers.Adagrad([first])
    with pytest.raises(ValueError, match="lr of param group 1 must be a finite number"):
        optimizer.add_param_group({"params": others, "lr": -1.0})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": others, "lr": 1.0})


def test_a_rate_on_the_device_is_refused_for_a_number_compiles_nothing_either() -> None:
    device = tte.runtime.device()
    held = parameters(device)
    rate = torch.tensor(0.1).to(device)
    text = "lr of param group 0 .* a tensor on a device, which a number need not be"
    with pytest.raises(ValueError, match=text):
        tte.dense_optimizers.SGD(held, lr=rate)  # type: ignore[arg-type]
    tte.dense_optimizers.SGD(held, lr=float(rate))


def test_sparse_gradients_and_complex_parameters_are_refused() -> None:
    table = torch.nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 3])).sum().backward()
    optimizer = tte.dense_optimizers.Adam(table.parameters())
    with pytest.raises(RuntimeError, match=r"is sparse \(shape \[5, 2\]\); give that parameter to"):
        optimizer.step()
    assert not optimizer.state_dict()["state"]
    torch.optim.SparseAdam(table.parameters()).step()
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    weight.grad = torch.ones_like(weight)
    with pytest.raises(RuntimeError, match="a parameter is complex"):
        tte.dense_optimizers.SGD([weight]).step()
    torch.optim.SGD([weight]).step()


def test_a_state_of_a_differentiable_optimizer_is_refused_and_the_remedy_works() -> None:
    held = parameters()
    state = torch.optim.Adam(held, differentiable=True).state_dict()
    optimizer = tte.dense_optimizers.Adam(held)
    with pytest.raises(ValueError, match=r"differentiable=True.*set differentiable to False"):
        optimizer.load_state_dict(state)
    for group in state["param_groups"]:
        group["differentiable"] = False
    optimizer.load_state_dict(state)

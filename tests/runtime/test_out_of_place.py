"""`runtime.trace_out_of_place`: the numbers, programs and errors of in-place arithmetic, traced faster."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch_xla.debug.metrics as met
from models.dense_cases import assert_equal, gradients, parameters
from torch import Tensor, nn

import torch_tpu_embedding as tte

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda held: torch.optim.SGD(held, 0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adagrad": lambda held: torch.optim.Adagrad(held, 0.01, weight_decay=0.1),
    "Adam": lambda held: torch.optim.Adam(held, 0.01, capturable=True, amsgrad=True),
    "AdamW": lambda held: torch.optim.AdamW(held, 0.01, capturable=True),
    "RMSprop": lambda held: torch.optim.RMSprop(held, 0.01, momentum=0.9, centered=True),
    "Adadelta": lambda held: torch.optim.Adadelta(held, 0.01),
    "NAdam": lambda held: torch.optim.NAdam(held, 0.01, capturable=True),
}


SIZES = itertools.count(1001)
"""Sizes that no other program of the process has: a program that is there already shows no count."""


def trained(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], inside: bool, size: int
) -> Any:
    """Weights, state and the number of arguments that a program updates in place, after 30 steps."""
    held = parameters(tte.runtime.device())
    held.append(nn.Parameter(torch.ones(size).to(tte.runtime.device())))
    tte.runtime.sync()
    optimizer, drawn = make(held), gradients()
    for _ in range(30):
        for each, gradient in zip(held, [*next(drawn), torch.ones(size)], strict=True):
            each.grad = gradient.to(each.device)
        with tte.runtime.trace_out_of_place() if inside else nullcontext():
            optimizer.step()
        optimizer.zero_grad()
        tte.runtime.sync()
    donors = met.metric_data("InputOutputAliasCount")[2][-1][1]
    return (
        [each.detach() for each in held],
        optimizer.state_dict()["state"],
        donors,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_weights_and_state_are_equal_to_the_bit_and_as_much_is_updated_in_place(
    name: str,
) -> None:
    size = next(SIZES)
    weights, state, donors = trained(OPTIMIZERS[name], inside=False, size=size)
    ours, our_state, our_donors = trained(OPTIMIZERS[name], inside=True, size=size)
    assert_equal(ours, weights)
    assert_equal(our_state, state)
    assert our_donors == donors >= len(weights)


def number(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape).to(kind)


OPERATIONS: dict[str, Callable[[Tensor, Callable[[Tensor], Tensor]], object]] = {
    "a number": lambda x, to: x.add_(2),
    "alpha": lambda x, to: x.sub_(to(number(3)), alpha=0.5),
    "a broadcast operand": lambda x, to: x.mul_(to(number(1))),
    "a 0-d operand of another type": lambda x, to: x.div_(
        to(torch.tensor(3.0, dtype=torch.float64))
    ),
    "a wider operand": lambda x, to: x.add_(to(number(3, kind=torch.float64))),
    "rounding": lambda x, to: x.div_(2, rounding_mode="floor"),
    "three operands": lambda x, to: x.addcmul_(to(number(3)), to(number(3)), value=0.3),
    "a weight": lambda x, to: x.lerp_(to(number(3)), to(torch.tensor([0.1, 0.2, 0.3]))),
    "itself": lambda x, to: x.add_(x),
    "a function": lambda x, to: torch.sqrt_(x),
    "bounds": lambda x, to: x.clamp_(min=1.5, max=2.5),
    "rows": lambda x, to: x.index_add_(0, to(torch.tensor([0, 0])), to(number(2)), alpha=2),
    "a view": lambda x, to: x[1:].pow_(2),
    "a transposed view": lambda x, to: x.view(1, 3).t()[0].neg_(),
    "keywords": lambda x, to: x.addcdiv_(tensor1=to(number(3)), tensor2=to(number(3)), value=2),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_an_operation_changes_its_tensor_as_in_place_and_returns_that_tensor(what: str) -> None:
    device = tte.runtime.device()
    expected = number(3)
    OPERATIONS[what](expected, lambda each: each)
    x = number(3).to(device)
    alias = x.view(3)
    with tte.runtime.trace_out_of_place():
        OPERATIONS[what](x, lambda each: each.to(device))
        assert x.add_(0) is x
        x += 0
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.cpu(), expected)
    assert_equal(alias, x)


REFUSED: dict[str, Callable[[Tensor], object]] = {
    "a real number into whole ones": lambda x: x.add_(0.5),
    "real numbers into whole ones": lambda x: x.add_(torch.ones(3, device=x.device)),
    "more rows": lambda x: x.add_(torch.ones(2, 3, dtype=torch.int64, device=x.device)),
    "an operand of no fitting shape": lambda x: x.add_(x[:2]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_in_place_refuses_is_refused_and_changes_nothing(what: str) -> None:
    device = tte.runtime.device()
    x = number(3, kind=torch.int64).to(device)
    with pytest.raises(RuntimeError) as plain:
        REFUSED[what](x)
    with tte.runtime.trace_out_of_place(), pytest.raises(RuntimeError) as inside:
        REFUSED[what](x)
    assert str(inside.value) == str(plain.value)
    assert x.tolist() == [1, 2, 3]


def test_what_torch_xla_converts_where_torch_refuses_is_converted_as_ever() -> None:
    found = []
    for context in (nullcontext(), tte.runtime.trace_out_of_place()):
        x = number(3, kind=torch.int64).to(tte.runtime.device())
        with context:
            x.mul_(2.5)
            x.div_(2)
        found.append(x.cpu())
    assert_equal(found[1], found[0])


def test_a_leaf_that_needs_a_gradient_is_refused_as_ever() -> None:
    weight = nn.Parameter(torch.ones(3).to(tte.runtime.device()))
    with (
        tte.runtime.trace_out_of_place(),
        pytest.raises(RuntimeError, match="a leaf Variable that requires grad"),
    ):
        weight.add_(1)


def test_gradients_flow_through_an_operation_in_it() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]).to(tte.runtime.device()))
    with tte.runtime.trace_out_of_place():
        y = weight * 1
        y.mul_(weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0, 4.0]


def test_tensors_of_the_host_and_other_threads_are_left_alone_and_contexts_nest() -> None:
    x = torch.ones(3)
    version, seen = x._version, []

    def elsewhere() -> None:
        y = torch.ones(3).to(tte.runtime.device())
        before = tte.runtime.times_changed(y)
        y.add_(1)
        seen.append((tte.runtime.times_changed(y) - before, y.tolist()))

    with tte.runtime.trace_out_of_place(), tte.runtime.trace_out_of_place():
        x.add_(1)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        y = torch.ones(3).to(tte.runtime.device())
        y.add_(1)
        assert y.tolist() == [2.0, 2.0, 2.0]
    assert x._version == version + 1
    assert x.tolist() == [2.0, 2.0, 2.0]
    assert seen == [(1, [2.0, 2.0, 2.0])]

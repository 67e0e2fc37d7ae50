"""Formulas with a number of the device give the bits of the operators that they stand for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.dense_optimizers import arithmetic
from torch_tpu_embedding.dense_optimizers.sent_numbers import Number

RATE = -0.0123
Formula = Callable[[Tensor, Tensor, Tensor, Number], Tensor]
FORMULAS: dict[str, tuple[Formula, Formula]] = {
    "plus": (
        lambda value, one, other, factor: arithmetic.plus(value, one, factor),
        lambda value, one, other, factor: value.add(one, alpha=factor),
    ),
    "plus_product": (
        arithmetic.plus_product,
        lambda value, one, other, factor: value.addcmul(one, other, value=factor),
    ),
    "plus_ratio": (
        arithmetic.plus_ratio,
        lambda value, one, other, factor: value.addcdiv(one, other, value=factor),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_number_of_the_device_gives_the_bits_that_torchs_operator_gives_with_a_number_of_python(
    name: str, dtype: torch.dtype
) -> None:
    device, drawn = tte.runtime.device(), torch.Generator().manual_seed(0)
    numbers = [torch.randn(300, generator=drawn) * 10.0 ** (n - 1) for n in range(3)]
    numbers[1][:3] = torch.tensor([0.0, -0.0, torch.inf])
    tensors = [each.to(dtype).to(device) for each in numbers]
    rate = torch.tensor(RATE, dtype=torch.float32).to(device)
    tte.runtime.sync()
    (ours, of_torch), bits = FORMULAS[name], torch.int16 if dtype.itemsize == 2 else torch.int32
    found, wanted = ours(*tensors, rate).cpu(), of_torch(*tensors, RATE).cpu()
    assert found.dtype == wanted.dtype == dtype
    assert torch.equal(found.view(bits), wanted.view(bits))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_clears_as_torch_does(set_to_none: bool) -> None:
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = tte.dense_optimizers.Adagrad([{"params": [each]} for each in weights])
    weights[0].grad = torch.ones(3)
    optimizer.zero_grad(set_to_none=set_to_none)
    assert weights[1].grad is None
    if set_to_none:
        assert weights[0].grad is None
    else:
        assert torch.equal(weights[0].grad, torch.zeros(3))

"""Tensors that replay finds among all objects, or by weak references, live as long as they are held."""

import gc
import warnings

import torch
from torch import Tensor

from torch_tpu_embedding import runtime
from torch_tpu_embedding.replaying.surroundings.surroundings import _It
from torch_tpu_embedding.runtime.torch_xla import programs


def _parameter_with_gradient() -> Tensor:
    """Its gradient is held by C++ alone: nobody in Python has a name for it."""
    parameter = torch.zeros(2, dtype=torch.float32, device=runtime.device(), requires_grad=True)
    parameter.grad = torch.ones(2, dtype=torch.float32, device=runtime.device())
    return parameter


def test_a_gradient_that_was_found_outlives_its_parameter() -> None:
    gc.collect()
    new = programs.NewTensors()
    parameter = _parameter_with_gradient()
    found = new.all()
    assert found is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parameter.grad = None
    assert sorted(tuple(each.shape) for each in found) == [(2,), (2,)]


def test_a_gradient_that_is_known_by_a_weak_reference_can_be_held() -> None:
    parameter = _parameter_with_gradient()
    known = _It(parameter.grad)
    held = known.of()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parameter.grad = None
    assert isinstance(held, Tensor)
    assert held.shape == (2,)

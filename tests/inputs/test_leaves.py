"""Activations as leaves: each backward pass gives them a tensor of their own, whatever hooks users add."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_tpu_embedding.inputs.gradients import make_leaf


def test_an_expanded_gradient_becomes_a_tensor_of_its_own() -> None:
    leaf = make_leaf(torch.ones(2, 3))
    leaf.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.stride() == (3, 1)
    leaf.grad[0, 0] = 5.0
    assert leaf.grad.sum() == 10.0


def test_each_leaf_has_hooks_of_its_own_and_a_users_come_after_ours() -> None:
    leaves = [make_leaf(torch.ones(2, 3)) for _ in range(2)]
    seen: list[Tensor] = []
    handles = [leaves[0].register_hook(seen.append) for _ in range(3)]
    sum(each.sum() for each in leaves).backward()
    assert len(seen) == 3
    assert all(each.stride() == (3, 1) for each in seen), "our hook has made it a tensor of its own"
    for handle in handles:
        handle.remove()
    leaves[0].grad = None
    leaves[0].sum().backward()
    assert len(seen) == 3
    assert leaves[0].grad is not None
    assert leaves[0].grad.stride() == (3, 1), "ours is still there"


def test_a_hook_that_was_registered_first_in_the_process_does_not_take_the_place_of_ours() -> None:
    leaf = make_leaf(torch.ones(3))
    handle = leaf.register_hook(lambda gradient: gradient * 2)
    handle.hooks_dict_ref()[0] = handle.hooks_dict_ref().pop(handle.id)  # as if it were handle 0
    leaf.sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.full((3,), 2.0))
    assert leaf.grad.stride() == (1,)

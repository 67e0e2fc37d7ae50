"""Tensors of all processes joined in every process, with a gradient that goes back to where each came from.

A loss in which the samples of *all* processes meet, such as a softmax with in-batch negatives, needs
activations of the others. Each process gets them by `all_gather`, whose gradient is the reduce-scatter: the
part that a process gave gets the sum of the gradients that all processes have for it. So the gradients are
those of the sum of all processes' losses, which is the rule for everything else here.

On TPU with one process for each chip both are collectives of the program; else gloo moves the numbers
between two programs. Letters: S processes, n the first size of each process's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import runtime
from .calls import calling
from .group import HostGroup


def gather_with_gradient(value: Tensor, group: HostGroup, in_program: bool) -> Tensor:
    """`[n, …]` of each process → `[S · n, …]` in every process, in the order of ranks.

    Args:
        in_program: the collectives are part of the device's program.

    Raises:
        ValueError: on all processes alike, if they gave tensors that differ in shape, dtype or need of a
            gradient.
    """
    with calling("all_gather"):
        _check_alike(value, group)
        joined: Tensor = _AllGather.apply(value, group, in_program)  # type: ignore[no-untyped-call]
    return joined


def check_value(value: object) -> Tensor:
    """The argument of `all_gather`.

    Raises:
        TypeError, ValueError: it is no tensor, or one without dimensions.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"all_gather: expected a tensor, got {type(value).__name__}")
    if not value.dim():
        raise ValueError(
            "all_gather: a tensor without dimensions cannot be joined along the first one; pass "
            "value.reshape(1)"
        )
    return value


class _AllGather(torch.autograd.Function):
    """The join, and for the gradient its transpose, the reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: HostGroup, in_program: bool) -> Tensor:
        ctx.group, ctx.in_program = group, in_program
        if in_program:
            return runtime.all_gather(value, group.size)
        own = _fetch(value)
        return torch.cat(_exchange([own] * group.size, group)).to(value.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        size = ctx.group.size
        if ctx.in_program:
            return runtime.reduce_scatter(gradient, size), None, None
        own = _fetch(gradient)
        parts = own.reshape(size, len(own) // size, *own.shape[1:]).unbind()
        with calling(f"backward of all_gather, gradient {[*gradient.shape]}"):
            received = _exchange(parts, ctx.group)
        return torch.stack(received).sum(0).to(gradient.device), None, None


def _fetch(value: Tensor) -> Tensor:
    """A tensor on the host."""
    if runtime.is_accelerated(value.device):
        # Everything traced so far runs here, once: a fetch alone would leave what `value` does not need to
        # another program, which would compute the rest again.
        runtime.sync()
    return value.cpu()


def _exchange(parts: Sequence[Tensor], group: HostGroup) -> list[Tensor]:
    """Send part p, on the host, to process p; gives what each process sent here. All have one shape."""
    sent = [
        part.contiguous().view(-1).view(torch.uint8) for part in parts
    ]  # gloo lacks some dtypes
    received = group.all_to_all(sent, [len(each) for each in sent])
    return [
        each.view(part.dtype).view(part.shape) for each, part in zip(received, parts, strict=True)
    ]


def _check_alike(value: Tensor, group: HostGroup) -> None:
    """Raise ValueError on all processes if a collective of their tensors would go wrong."""
    tracked = value.requires_grad and torch.is_grad_enabled()
    found = group.gather_objects(([*value.shape], str(value.dtype), tracked))
    remedies = (
        "give each process its part of a batch by local_positions, which fills up a short one",
        "convert them to one dtype first",
        "join a tensor that needs a gradient in all processes or, by value.detach(), in none",
    )
    for name, of_each, remedy in zip(
        ("shape", "dtype", "requires_grad"), zip(*found, strict=True), remedies, strict=True
    ):
        if any(each != of_each[0] for each in of_each):
            differing = ", ".join(f"{each} on process {rank}" for rank, each in enumerate(of_each))
            raise ValueError(f"all_gather: the tensors differ in {name}: {differing}; {remedy}")

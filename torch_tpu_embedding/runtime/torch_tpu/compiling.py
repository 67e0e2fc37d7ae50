"""Functions of tensors, compiled as one program each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

VARIABLE = "TPU_EMBEDDING_COMPILE"
"""The environment variable that turns compiling off, where it is 0."""


def compiles_functions() -> bool:
    """True if functions are to be compiled: unless the environment variable TPU_EMBEDDING_COMPILE is 0."""
    return os.environ.get(VARIABLE, "1") != "0"


def compiled(
    function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]
) -> Callable[..., list[Tensor]]:
    """A function as a program for tensors of these shapes. It must change none of them in place.

    It is traced here, on tensors without memory, so torch.compile has a plain list of operators before it,
    and not the package's own code.

    Args:
        function: of tensors alone; it gives new ones.
        inputs: such as it will be called with.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function, tracing_mode="fake")(*inputs)
    # torch_tpu's own default would do, but only for tensors on its device
    program: Callable[..., list[Tensor]] = torch.compile(
        graph, backend="tpu", fullgraph=True, dynamic=False
    )
    return program

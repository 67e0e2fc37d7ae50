"""Torch's modes: one that a caller has switched on for other code must not stick to the tables, and one of
autograd's is switched off where a backward would not reach the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch
from torch._C._dynamo import eval_frame as compiler

from .backends import device_type

P = ParamSpec("P")
R = TypeVar("R")


def for_tables(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that makes or changes tensors that outlive the call: tables, slots, batches.

    The function runs without gradients, without `inference_mode` (whose tensors could never be updated
    outside of it) and without autocast, whichever of them the caller has switched on.

    Raises:
        RuntimeError: it is called inside a transform of `torch.func`; nothing has happened then.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_transforms()
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return run(*args, **kwargs)
        for kind in ("cpu", device_type()):
            if _is_autocast(kind):
                with torch.autocast(kind, enabled=False):
                    return run(*args, **kwargs)
        with torch.no_grad():
            return function(*args, **kwargs)

    return run


def _is_autocast(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except RuntimeError:  # there is none, or no torch_tpu, which tells torch of it
        return False


def refuse_transforms() -> None:
    """Raise RuntimeError inside a transform of `torch.func`."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "TPUEmbedding: called inside a transform of torch.func (grad, vmap, jvp, …), which does not "
            "reach tables on an XLA device; look up before it, give the activations to the transformed "
            "function, and pass their gradients to apply_gradients"
        )


def outside_graph(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public call that `torch.compile` shall not look into: it runs between two graphs.

    `torch.compiler.disable` does the same, and imports the compiler for it: two seconds at the start of
    programs that never compile. It marks the code of `function`: one that another decorator has wrapped
    shares that decorator's code with all else it wraps.
    """
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    function._torchdynamo_disable_msg = "the tables are no part of a graph"  # type: ignore[attr-defined]
    skip = compiler._FrameExecStrategy(compiler._FrameAction.SKIP, compiler._FrameAction.SKIP)
    compiler.set_code_exec_strategy(function.__code__, skip)
    return function


def allow_backward(target: torch.device) -> None:
    """Make `backward()` of this thread reach an XLA device whose client was started late.

    Autograd makes a queue for each device at the first backward of the process; one that comes later, where
    the process began with work on the CPU, has none, and every backward on it fails. Without threads of its
    own autograd needs none: then all of backward runs in the thread that calls it.

    Args:
        target: the XLA device.
    """
    if not _has_queue(target):
        torch.autograd.set_multithreading_enabled(False)


@cache
def _has_queue(target: torch.device) -> bool:
    with torch.inference_mode(False), torch.autograd.set_multithreading_enabled(True):
        # traced, and never run
        tried = torch.zeros(1, dtype=torch.float32, device=target, requires_grad=True)
        try:
            (tried + tried).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "device_ready_queues" not in str(error):
                raise
            return False
    return True

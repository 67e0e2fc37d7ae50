"""The gradients of a step: taken from the activations or given by the caller, and checked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set

import torch
from torch import Tensor

from ..config.resolved import Feature
from ..io.warn import warn_caller

_NO_HANDLE = -1
"""The key of a hook, which that of no handle is: those of a user's own hooks count from 0."""


def make_leaf(activation: Tensor) -> Tensor:
    """Let an activation collect `.grad`, and let each backward pass give it a tensor of its own.

    The gradient that autograd has for a leaf may be an expanded view: that of x.sum(1) has one number for
    all positions of a sequence. torch_xla 2.9 keeps the view as `.grad`, and an operation on it in place
    (`clip_grad_norm_`, `unscale_`, the next backward pass) is then done once for each position.
    """
    activation.requires_grad_()
    # As `register_hook` does it, in half the time: nobody needs a handle to take this hook off again.
    activation._backward_hooks = OrderedDict({_NO_HANDLE: torch.clone})
    return activation


def collect_gradients(
    features: tuple[Feature, ...],
    activations: list[Tensor],
    given: list[object] | None,
    call: str,
    frozen: Set[int] = frozenset(),
) -> list[Tensor | None]:
    """One checked gradient per feature, None where there is none.

    Args:
        activations: of the batch that awaits its gradients.
        given: one gradient or None per feature, or None altogether to take each activation's `.grad`.
        call: the name of the public call, for the messages.
        frozen: tables whose features need no gradient.

    Raises:
        ValueError: a gradient is no tensor, or has another shape, dtype or device than its activation.
        RuntimeError: no activation has a `.grad`.
    """
    if given is None:
        given = [activation.grad for activation in activations]
        trained = any(feature.table_index not in frozen for feature in features)
        if trained and all(gradient is None for gradient in given):
            raise RuntimeError(
                f"{call}: no activation has a gradient; call loss.backward() first, or pass the gradients"
            )
    found: list[Tensor | None] = []
    for feature, activation, gradient in zip(features, activations, given, strict=True):
        if gradient is None:
            found.append(None)
            continue
        if not isinstance(gradient, Tensor):
            raise ValueError(
                f"gradients of feature {feature.name!r}: expected a tensor or None, got "
                f"{type(gradient).__name__}"
            )
        wanted = (activation.shape, activation.dtype, activation.device)
        if (gradient.shape, gradient.dtype, gradient.device) != wanted:
            raise ValueError(
                f"gradients of feature {feature.name!r}: expected {activation.dtype} "
                f"{[*activation.shape]} on {activation.device}, the activation's, got {gradient.dtype} "
                f"{[*gradient.shape]} on {gradient.device}"
            )
        found.append(gradient.detach() if gradient.requires_grad else gradient)
    return found


def warn_of_missing(
    features: tuple[Feature, ...],
    gradients: list[Tensor | None],
    warned: set[str],
    frozen: Set[int] = frozenset(),
) -> None:
    """Say once which features had no gradient in a step.

    Args:
        warned: names of the features of which it was said; grows.
        frozen: tables whose features need none.
    """
    missing = [
        feature.name
        for feature, gradient in zip(features, gradients, strict=True)
        if gradient is None and feature.table_index not in frozen
    ]
    if not warned.issuperset(missing):
        warn_caller(
            f"apply_gradients: no gradient for the features {missing}; it counts as zero, and their "
            "rows still take an optimizer step (this is said once)"
        )
        warned.update(missing)

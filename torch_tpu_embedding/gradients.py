"""The gradients of a step: taken from the activations or given by the caller, and checked."""

from __future__ import annotations

import warnings
from collections.abc import Set

import torch
from torch import Tensor

from .config import Feature


def collect_gradients(
    features: tuple[Feature, ...],
    activations: list[Tensor],
    given: list[object] | None,
    warned: set[str],
    frozen: Set[int] = frozenset(),
) -> list[Tensor]:
    """One gradient per feature, zeros where there is none.

    Args:
        activations: of the batch that awaits its gradients.
        given: one gradient or None per feature, or None altogether to take each activation's `.grad`.
        warned: names of the features whose missing gradient was warned of; grows.
        frozen: tables whose features need no gradient.

    Raises:
        ValueError: a gradient is no tensor, or has another shape, dtype or device than its activation.
        RuntimeError: no activation has a `.grad`.
    """
    trained = [feature.table_index not in frozen for feature in features]
    if given is None:
        given = [activation.grad for activation in activations]
        if any(trained) and all(gradient is None for gradient in given):
            raise RuntimeError(
                "apply_gradients: no activation has a gradient; call loss.backward() first, or pass "
                "the gradients"
            )
    found: list[Tensor] = []
    for feature, activation, gradient in zip(features, activations, given, strict=True):
        if gradient is None:
            found.append(torch.zeros_like(activation))
            continue
        where = f"gradients of feature {feature.name!r}"
        if not isinstance(gradient, Tensor):
            raise ValueError(f"{where}: expected a tensor or None, got {type(gradient).__name__}")
        wanted = (activation.shape, activation.dtype, activation.device)
        if (gradient.shape, gradient.dtype, gradient.device) != wanted:
            raise ValueError(
                f"{where}: expected {activation.dtype} {[*activation.shape]} on "
                f"{activation.device}, the activation's, got {gradient.dtype} "
                f"{[*gradient.shape]} on {gradient.device}"
            )
        found.append(gradient.detach() if gradient.requires_grad else gradient)
    places = zip(features, given, trained, strict=True)
    missing = [feature.name for feature, gradient, needed in places if needed and gradient is None]
    if not warned.issuperset(missing):
        warnings.warn(
            f"apply_gradients: no gradient for the features {missing}; it counts as zero, and their "
            "rows still take an optimizer step (this is said once)",
            RuntimeWarning,
            stacklevel=4,  # the caller of apply_gradients, which is timed by a wrapper
        )
        warned.update(missing)
    return found

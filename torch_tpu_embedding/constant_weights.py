"""Weights that a device can take: numbers of the host, for no gradient comes back to them."""

from __future__ import annotations

from collections.abc import Sequence

from .config import Resolved
from .features import Bags


def require_constant(resolved: Resolved, bags: Sequence[Bags]) -> None:
    """Make sure that no weights of a batch require grad.

    Args:
        bags: in feature order.

    Raises:
        ValueError: naming the feature, its table and what to do.
    """
    for feature, each in zip(resolved.features, bags, strict=True):
        if each.gain is not None and each.gain.requires_grad:
            raise ValueError(
                f"feature {feature.name!r} (table {resolved.table_of(feature).name!r}): its weights "
                "require grad, but an XLA device takes them as numbers of the host and gives no gradient "
                "back; pass weights.detach(), or, to learn them, look the ids up as a sequence "
                "(max_sequence_length) and combine its rows with weights on the device"
            )

"""The forms in which TF's releases have their users call the same thing."""

from __future__ import annotations

from typing import Any

from .optimizers import Optimizer


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()
"""The default of an argument that must be given."""


def require_size_and_optimizer(batch_size: object, optimizer: object) -> None:
    """Raise TypeError where TPUEmbedding is called as in TF since 2.4, which has no batch size.

    Raises:
        TypeError: an argument is missing; the message gives the whole call.
    """
    since = ""
    if isinstance(batch_size, Optimizer) or (batch_size is REQUIRED and optimizer is not REQUIRED):
        missing = "batch_size"
        since = (
            "; TF 2.4 and later have no batch_size, but here programs are compiled for one size: give that "
            "of all processes together"
        )
    elif batch_size is REQUIRED or optimizer is REQUIRED:
        missing = "optimizer" if batch_size is not REQUIRED else "batch_size and optimizer"
        since = "; optimizer=None is for tables that do not train"
    else:
        return
    raise TypeError(
        f"TPUEmbedding: {missing} is missing, the call is TPUEmbedding(feature_config, batch_size, "
        f"optimizer){since} (to serve on the CPU: TPUEmbeddingForServing(feature_config, optimizer))"
    )


def shapes_or_size(shapes: Any, size: int | None) -> Any:
    """The one of `per_replica_input_shapes` and `per_replica_batch_size` that was given, or None.

    Raises:
        ValueError: both were.
    """
    if shapes is not None and size is not None:
        raise ValueError(
            "build: give per_replica_input_shapes or per_replica_batch_size, not both; the shapes hold the "
            "size"
        )
    return size if shapes is None else shapes

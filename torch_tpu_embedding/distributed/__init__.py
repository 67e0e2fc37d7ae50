"""Several processes under torchrun: how they find each other, share a batch, and add up dense gradients."""

from .api import (
    all_gather,
    gather,
    initialize,
    is_main,
    local_positions,
    num_replicas,
    rank,
    shutdown,
    sum_gradients,
    world_size,
)

__all__ = [
    "all_gather",
    "gather",
    "initialize",
    "is_main",
    "local_positions",
    "num_replicas",
    "rank",
    "shutdown",
    "sum_gradients",
    "world_size",
]


def __dir__() -> list[str]:
    """The public names, without what they are made of."""
    return sorted(__all__)

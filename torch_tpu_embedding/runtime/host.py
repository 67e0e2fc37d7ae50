"""Tensors of the host, of stated types: torch's own factories follow defaults that users may set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def arange(*bounds: int) -> Tensor:
    """The int64 numbers that `range(*bounds)` gives."""
    return torch.arange(*bounds, dtype=torch.int64, device="cpu")


def ints(values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    """int64 numbers."""
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def zeros(*shape: int) -> Tensor:
    """float32 zeros."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def empty(*shape: int) -> Tensor:
    """float32 numbers, not yet set."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def random_seed() -> int:
    """A number from torch's default generator, below 2^62."""
    return int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))

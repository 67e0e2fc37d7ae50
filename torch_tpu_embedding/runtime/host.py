"""Tensors of the host, of stated types: torch's own factories follow defaults that users may set. And what
stays on a device while the host's numbers stay the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def arange(*bounds: int) -> Tensor:
    """The int64 numbers that `range(*bounds)` gives."""
    return torch.arange(*bounds, dtype=torch.int64, device="cpu")


def ints(values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    """int64 numbers."""
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def floats(values: Sequence[float]) -> Tensor:
    """float32 numbers."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def zeros(*shape: int) -> Tensor:
    """float32 zeros."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def empty(*shape: int) -> Tensor:
    """float32 numbers, not yet set."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def random_seed() -> int:
    """A number from torch's default generator, below 2^62."""
    return int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))


class DeviceCopy:
    """A device tensor of some values of the host, made again only when the values have changed.

    A program that reads it needs no compile for new values, as it would for a number.
    """

    def __init__(self) -> None:
        self._held: tuple[object, Tensor] | None = None

    @property
    def tensor(self) -> Tensor | None:
        """The tensor that `hold` gave last."""
        return None if self._held is None else self._held[1]

    def hold(self, values: object, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of these values.

        Args:
            values: compared with those of the last call.
            make: gives the tensor, if they are others.
        """
        if self._held is None or self._held[0] != values:
            self._held = (
                values,
                make(),
            )  # at once, so that an interrupt parts neither from the other
        return self._held[1]

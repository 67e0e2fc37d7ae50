"""The numbers of an optimizer's groups in one vector on the device, sent where one has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import runtime
from ..runtime import host

Number = float | Tensor
"""A number of a formula: a Python number for tensors of the host, a device scalar for device tensors."""


class SentNumbers:
    """Hyper-parameters as the device has them. What a program reads from here may change without a trace.

    A program that was traced with an optimizer's step has the vector as an input. To run it again: call
    `send`, then give it the vector of its device from `vectors`. The program stays right as long as
    `structure` gives what it gave at the trace.

    Args:
        names: keys of a param group whose values are sent.
        read: gives the numbers of all groups now, one list for each group, checked.
        structure: gives what the groups' values decide besides: whether a term is there at all.
    """

    def __init__(
        self,
        names: frozenset[str],
        read: Callable[[], list[list[float]]],
        structure: Callable[[], tuple[object, ...]],
    ) -> None:
        self.names = names
        self._read = read
        self._structure = structure
        self._values: list[list[float]] = []
        self._vectors: dict[torch.device, host.DeviceCopy] = {}

    def structure(self) -> tuple[object, ...]:
        """All that the groups' values decide about the program, as values that can be compared."""
        return self._structure()

    def vectors(self) -> dict[torch.device, Tensor]:
        """The vector `[numbers]`, float32, on each XLA device that a step has used; empty before that."""
        vectors = {device: copy.tensor for device, copy in self._vectors.items()}
        return {device: each for device, each in vectors.items() if each is not None}

    def send(self) -> None:
        """Bring the vectors up to the groups' values; those that have them already stay the same tensors.

        Raises:
            ValueError: a value is not a number that the optimizer can work with; nothing is sent then.
        """
        self._values = self._read()
        for device in self._vectors:
            self._hold(device)

    def on(self, device: torch.device) -> list[Sequence[Number]]:
        """The numbers of each group as `send` read them last, for formulas over tensors of this device."""
        if not runtime.is_accelerated(device):
            return [*self._values]
        scalars = torch.ops.aten.unbind_copy.int(self._hold(device))
        found, start = list[Sequence[Number]](), 0
        for of_group in self._values:
            found.append(scalars[start : start + len(of_group)])
            start += len(of_group)
        return found

    def _hold(self, device: torch.device) -> Tensor:
        flat = [number for of_group in self._values for number in of_group]
        copy = self._vectors.setdefault(device, host.DeviceCopy())
        return copy.hold(self._values, lambda: runtime.upload(host.floats(flat), device))

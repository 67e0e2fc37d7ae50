"""A traced step as a program to run again: where its inputs come from and where its results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .participants import Snapshot

Source = tuple[str, int]
"""Where an input comes from: a list by name, and the position in it."""


@dataclass
class Program:
    """A step's compiled program, and how it hangs together with the state on the host."""

    key: bytes
    """Its key among torch_xla's programs."""
    inputs: list[Source]
    constants: list[Tensor]
    """Numbers that Python has put into it."""
    snapshot: Snapshot
    changed: list[tuple[int, int]]
    """The position in `snapshot.state` of each tensor that it changes, and that of its result."""
    gradients: list[tuple[int, int | None]]
    """The position of each parameter whose `.grad` is another one after the step, and that of the result,
    or None for no gradient."""
    outputs: list[tuple[str, Any]]
    """The leaves of what the step returns: ('result', position), ('argument', position) or ('value',
    object)."""
    structure: Any
    """Puts the leaves together."""
    calls: list[tuple[object, ...]]
    """The calls of the embedding's queue, as its journal has them."""
    counters: list[Tensor]
    """Host tensors that each step counts up by one."""
    device: str
    counts: tuple[int, int] | None = None
    """How many tensors its trace has made, and how many copies; None if that is not known."""
    constant_bytes: list[bytes] = field(init=False)
    num_seeds: int = field(init=False)
    """The number of inputs that are the seed, for which a run makes a tensor."""

    def __post_init__(self) -> None:
        self.constant_bytes = [_bytes(each) for each in self.constants]
        self.num_seeds = sum(kind == "seed" for kind, _ in self.inputs)

    def difference(self, other: Program) -> str | None:
        """A sentence about how another trace of the same step differs from this one; None if not."""
        if self.calls != other.calls:
            return "it calls the embedding in another way from trace to trace"
        if self.key != other.key:
            return "its operations differ from trace to trace"
        if (
            self.inputs != other.inputs
            or self.changed != other.changed
            or self.gradients != other.gradients
        ):
            return "what it reads and writes differs from trace to trace"
        if self.constant_bytes != other.constant_bytes:
            return f"a number in it differs from trace to trace{self._numbers(other)}"
        if len(self.counters) != len(other.counters):
            return "it counts other steps of the optimizers from trace to trace"
        if self.structure != other.structure or not _same_outputs(self.outputs, other.outputs):
            return "it returns other values, besides tensors, from trace to trace"
        return None

    def _numbers(self, other: Program) -> str:
        for one, two in zip(self.constants, other.constants, strict=True):
            if _bytes(one) != _bytes(two) and one.numel() == 1:
                return f" ({one.cpu().item()} before, {two.cpu().item()} now)"
        return ""


def _bytes(constant: Tensor) -> bytes:
    on_host = constant.detach().cpu().reshape(-1).contiguous()
    return str(on_host.dtype).encode() + bytes(on_host.view(torch.uint8).tolist())


def _same_outputs(one: Sequence[tuple[str, Any]], other: Sequence[tuple[str, Any]]) -> bool:
    if len(one) != len(other):
        return False
    return all(
        kind == kind2 and (value is value2 or _equal_values(value, value2))
        for (kind, value), (kind2, value2) in zip(one, other, strict=True)
    )


def _equal_values(one: object, other: object) -> bool:
    plain = (bool, int, float, str, bytes, type(None))
    return type(one) is type(other) and isinstance(one, plain) and one == other

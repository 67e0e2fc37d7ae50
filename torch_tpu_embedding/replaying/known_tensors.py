"""The tensors that a step's program may take its inputs from, by their memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..runtime.torch_xla import programs
from .program import Source
from .unknown_reads import Form
from .watch import CannotReplayError


class UnknownTensorError(CannotReplayError):
    """A step reads a tensor that is none of its inputs."""

    def __init__(self, form: Form, message: str) -> None:
        super().__init__(message)
        self.form = form


class KnownTensors:
    """Tensors by the number of their memory."""

    def __init__(self) -> None:
        self._sources: dict[int, Source | None] = {}
        self._seen: set[int] = set()

    def add(self, tensors: Sequence[Tensor | None], kind: str) -> None:
        """Take a list of tensors that an input may come from, under the list's name."""
        numbers = [n for n, each in enumerate(tensors) if programs.is_on_device(each)]
        present = [each for each in (tensors[n] for n in numbers) if each is not None]
        if not present:
            return
        for number, each, memory in zip(
            numbers, present, programs.memory_ids(present), strict=True
        ):
            if id(each) in self._seen:
                continue
            self._seen.add(id(each))
            if kind == "elsewhere" and memory in self._sources:
                continue  # an alias
            # None: two tensors share it now, and may not later.
            self._sources[memory] = None if memory in self._sources else (kind, number)

    def source(self, memory: int, value: Tensor) -> Source | None:
        """The position of an input with this memory; None for a number that Python has put in.

        Raises:
            CannotReplayError: it has none.
        """
        shape = f"{str(value.dtype).removeprefix('torch.')} {[*value.shape]}"
        found = self._sources.get(memory, ("elsewhere", -1))
        if found is not None and found[0] == "elsewhere":
            if value.dim() == 0 and found[1] == -1:
                return None
            raise UnknownTensorError(
                (value.dtype, value.shape),
                f"it reads a tensor ({shape}) that is neither an argument nor part of a module that is "
                "called or of an optimizer, or it sends one to the device; pass it as an argument, or "
                "register it as a buffer of a module, and name that module in replay(…, modules=[…]) if "
                "nobody calls it",
            )
        if found is None:
            raise CannotReplayError(
                f"two of its tensors ({shape}) share memory; give each its own (clone)"
            )
        return found

"""What runs: a store of tables, and the three things done to it. No queues, names or user structures.

The engine works on any torch device: on XLA the calls are traced into the step's program, on an eager
device they run at once (which is how tests compare the layouts without compiling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import runtime
from .config import Resolved
from .features import Bags
from .host_batch import Batcher, StackSizes
from .lookup import StackIndex, activations, gather_records, send, split_buffers
from .occurrences import Chunk
from .runtime import DeviceKind
from .store import TableStore
from .update import apply_stack, place_gradients
from .update_all_rows import apply_to_all_rows
from .update_each import apply_chunks


@dataclass(frozen=True)
class SentBatch:
    """A batch on the device, not yet looked up.

    Whole buffers, not their parts: a part is a traced tensor, and one that waits in a queue while a step
    ends would become an output of that step's program.
    """

    sizes: tuple[StackSizes, ...]
    ints: Tensor
    floats: Tensor
    chunks: tuple[tuple[Chunk, ...], ...]


@dataclass
class LookedUp:
    """A batch whose records were read; kept until its gradients come."""

    indices: tuple[StackIndex, ...]
    chunks: tuple[tuple[Chunk, ...], ...]
    weight_records: list[Tensor]
    version: int
    """Of the tables when the records were read."""


@dataclass
class _Rates:
    values: tuple[float, ...] = ()
    on_device: Tensor = field(default_factory=lambda: torch.empty(0))


class Engine:
    """Lookup and update of all stacks on one device."""

    def __init__(self, resolved: Resolved, device: torch.device, kind: DeviceKind) -> None:
        self.store = TableStore(resolved, device, kind)
        self.version = 0
        self._num_features = len(resolved.features)
        self._device = device
        self._batcher = Batcher(resolved, self.store.stacks)
        self._rates = [_Rates() for _ in self.store.stacks]

    def send(self, bags: list[Bags], training: bool = True) -> SentBatch:
        """Deduplicate a checked batch and copy it to the device; `bags` in feature order."""
        batch = self._batcher.make(bags, training)
        return SentBatch(batch.sizes, *send(batch, self._device), batch.chunks)

    @torch.no_grad()
    def look_up(self, batch: SentBatch) -> tuple[LookedUp, list[Tensor]]:
        """Read the records of a batch; gives the activations in feature order too."""
        indices = split_buffers(batch.sizes, batch.ints, batch.floats)
        records = self._gather(indices)
        outputs: dict[int, Tensor] = {}
        for index, gathered in zip(indices, records, strict=True):
            parts = activations(index, gathered)
            for segment, part in zip(index.sizes.plan.segments, parts, strict=True):
                outputs[segment.feature_index] = part
        looked_up = LookedUp(indices, batch.chunks, records, self.version)
        return looked_up, [outputs[number] for number in range(self._num_features)]

    @torch.no_grad()
    def update(
        self, looked_up: LookedUp, gradients: Sequence[Tensor], rates: Sequence[float]
    ) -> None:
        """Apply one optimizer step to the records of a batch.

        Args:
            gradients: one per feature, in feature order, shaped like its activations.
            rates: one per table; ignored for tables that have no optimizer.
        """
        if looked_up.version != self.version:  # another update or a load came between
            looked_up.weight_records = self._gather(looked_up.indices)
        for number, index in enumerate(looked_up.indices):
            plan = index.sizes.plan
            if plan.stack.rule is None:
                continue
            arrays = self.store.arrays[number]
            of_stack = [gradients[segment.feature_index] for segment in plan.segments]
            rate = self._rates_on_device(
                number, tuple(rates[table] for table in plan.stack.table_indices)
            )
            if plan.stack.rule.steps_per_occurrence:
                parts = [part for part in place_gradients(index, of_stack) if part is not None]
                per_place = torch.cat(parts) if len(parts) > 1 else parts[0]
                chunks = looked_up.chunks[number]
                apply_chunks(arrays, plan.stack, chunks, per_place, rate, self._end_program)
            elif plan.stack.rule.moves_all_rows:
                apply_to_all_rows(arrays, index, of_stack, rate)
            else:
                apply_stack(arrays, index, looked_up.weight_records[number], of_stack, rate)
        self.version += 1

    def _end_program(self) -> None:
        if runtime.is_accelerated(self._device):
            runtime.sync()

    def _gather(self, indices: tuple[StackIndex, ...]) -> list[Tensor]:
        return [
            gather_records(index.sizes.plan.stack.arrays[0], arrays[0], index.record)
            for index, arrays in zip(indices, self.store.arrays, strict=True)
        ]

    def _rates_on_device(self, number: int, values: tuple[float, ...]) -> Tensor:
        """A vector in a buffer, never a number in the program: a new rate must not recompile."""
        held = self._rates[number]
        if held.values != values:
            tensor = torch.tensor(values, dtype=torch.float32).to(self._device)
            self._rates[number] = held = _Rates(values, tensor)
        return held.on_device

"""The engine: a store of tables, and lookup and update of it. No queues, names or user structures.

On XLA the calls are traced into the step's program, on an eager device they run at once. All code
between `enter` and `leave` is that of one device; `exchange.py` says how several are driven.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .. import runtime
from ..batch.batcher import Batcher
from ..batch.occurrences import RoundBatch
from ..batch.sample_padding import Samples
from ..config.learning_rates import FROZEN
from ..config.resolved import Resolved
from ..distributed.calls import calling
from ..distributed.exchange import Exchange, Local
from ..distributed.group import HostGroup
from ..distributed.placement import Placement, Strategy
from ..distributed.spare_groups import SpareGroups
from ..inputs.bags import Bags
from ..runtime import DeviceKind, host
from ..runtime.modes import for_tables
from ..runtime.phases import phase, timed
from ..runtime.slices import join
from ..runtime.torch_xla.held import hold
from ..tables.low_precision.keys import RoundingKeys
from ..tables.store import TableStore
from .lookup import activations, rows_alone, rows_of, rows_to_send
from .norms import NormSampler, sums_of_squares
from .records import gather_records
from .stack_index import LookedUp, SentBatch, StackIndex, split_buffers
from .update import (
    after,
    apply_round_batch,
    apply_stack,
    apply_to_all_rows,
    lookup_gradients,
    received_gradients,
    row_gradients,
)


class Holder(Protocol):
    """A pipeline of a module, as far as it holds updates back."""

    def flush(self, engine: Engine) -> None:
        """Apply them, and leave `engine.holding`."""


class Engine:
    """Lookup and update of all stacks on one device, or on one device's part of many."""

    def __init__(
        self,
        resolved: Resolved,
        device: torch.device,
        kind: DeviceKind,
        exchange: Exchange | None = None,
        strategy: Strategy = "mod",
        row_kernels: bool = False,
        seed: int = 0,
    ) -> None:
        self.exchange: Exchange = exchange if exchange is not None else Local(device)
        group = self.exchange.group
        self.placement = Placement(strategy, group.size, group.rank, self.exchange.local_devices)
        self.store = TableStore(resolved, device, kind, self.placement, self.exchange, row_kernels)
        self.trained = [n for n, stack in enumerate(self.store.stacks) if stack.rule is not None]
        """The numbers of the stacks whose rows a step changes."""
        self.holding: dict[Holder, None] = {}
        """The pipelines that hold updates back, of all modules on these tables, first come first."""
        self.samplers: list[NormSampler] = []
        """The samplers of norms for metrics, one for each module on these tables that has metrics."""
        self.starts: dict[str, str] = {}
        """Table with an initializer of the user's → a digest of its start values."""
        self.frozen: set[int] = set()
        """The tables that `TPUEmbedding.freeze` keeps as they are; an update knows them by their rates."""
        self._resolved = resolved
        self._batchers = 0
        self._num_features = len(resolved.features)
        self._device = device
        self.batcher = self.make_batcher(group)
        self.spare_groups = SpareGroups(group)
        """Groups of the same processes, for threads."""
        self.rates = [host.DeviceCopy() for _ in self.store.stacks]
        """The learning rates of each stack's tables on the device, `[tables]`."""
        self.rounding_keys = RoundingKeys(resolved, self.store, self.placement, self.exchange, seed)

    def make_batcher(self, group: HostGroup) -> Batcher:
        """A batcher of its own, for a thread that prepares batches beside the others."""
        self._batchers += 1
        name = f" of loader {self._batchers - 1}" if self._batchers > 1 else ""
        return Batcher(self._resolved, self.store.stacks, self.placement, group, name, self.starts)

    @for_tables
    def send(
        self,
        bags: Sequence[Bags] | Exception,
        training: bool = True,
        batcher: Batcher | None = None,
        samples: Samples | None = None,
    ) -> SentBatch:
        """Deduplicate a checked batch and copy it to the device; a collective call.

        Args:
            bags: in feature order, or the error that this process found, to be raised on all.
            batcher: None for the engine's own.
            samples: None if there are as many as the program is made for.
        """
        with calling("enqueue"):
            batch = (batcher or self.batcher).make(bags, training, samples)
        if batch.cut is not None and 1 < self.placement.num_shards < self.placement.num_devices:
            raise ValueError(
                "enqueue: with several processes of several devices each (SPMD) an inference batch must be "
                "whole; distributed.local_positions fills it up"
            )
        with phase("send"):
            ints = self.exchange.put(batch.ints)
            floats = batch.put_floats(self.exchange.put)
        return SentBatch(
            batch.shapes, ints, floats, batch.round_batches, batch.records, batch.name, batch.cut
        )

    def flush(self, besides: Holder | None = None) -> None:
        """Apply the updates that pipelines hold back; a collective call.

        Whoever looks at the tables or writes them calls this first, for updates of another module, too.

        Args:
            besides: a pipeline that keeps what it holds.
        """
        for holder in [each for each in self.holding if each is not besides]:
            holder.flush(self)

    @for_tables
    @timed("lookup", runtime.annotate)
    def look_up(self, batch: SentBatch, keep_records: bool = True) -> tuple[LookedUp, list[Tensor]]:
        """Read the records of a batch; gives the activations in feature order too.

        Args:
            keep_records: for the update, which then need not read them again if nothing comes between.
        """
        indices = self._indices(batch)
        if keep_records:
            records = self._gather(indices)
            rows = [rows_of(index, each) for index, each in zip(indices, records, strict=True)]
        else:
            arrays = [self.exchange.enter(of_stack[0]) for of_stack in self.store.arrays]
            rows = [rows_alone(index, each) for index, each in zip(indices, arrays, strict=True)]
            records = []
        if self.placement.num_devices > 1:
            buffers = [rows_to_send(index, each) for index, each in zip(indices, rows, strict=True)]
            with calling(f"dequeue of {batch.name}"):
                rows = [buffer.flatten(0, 1) for buffer in self.exchange.all_to_all(buffers)]
        outputs: dict[int, Tensor] = {}
        for index, each in zip(indices, rows, strict=True):
            parts = activations(index, each)
            for span, part in zip(index.shape.order.spans, parts, strict=True):
                outputs[span.feature_index] = self.exchange.leave(part)
        kept = [self.exchange.leave(each) for each in records]
        looked_up = LookedUp(batch, kept, self.store.version, self.store.loads)
        if keep_records and self.placement.num_devices == 1:  # else what `enter` gave must not stay
            looked_up.indices = indices
        return looked_up, [outputs[number] for number in range(self._num_features)]

    @for_tables
    @timed("update", runtime.annotate)
    def update(
        self,
        looked_up: LookedUp,
        gradients: Sequence[Tensor],
        rates: Sequence[float],
        may_sample: bool = True,
        read_before: Sequence[Tensor] = (),
    ) -> None:
        """Apply one optimizer step to the records of a batch.

        Args:
            gradients: one per feature, in feature order, shaped like its activations.
            rates: one per table; FROZEN for one that stays as it is; ignored for tables that have no
                optimizer.
            may_sample: False where the program is a rare one, so that sampling does not make two of it.
            read_before: the activations of another batch, in feature order, if that batch is looked up in
                the same program and must not see this update.
        """
        samplers = [each for each in self.samplers if each.begin()] if may_sample else []
        waiting = self._update_in_program(looked_up, gradients, rates, samplers, read_before)
        # Parts of a device's program must be gone here, for these programs end on their own.
        for number, per_occurrence in waiting.items():
            self._update_each(number, looked_up.batch, per_occurrence, rates)
        self.note_update(looked_up.batch, rates, self.store.version + 1)

    def note_update(self, batch: SentBatch, rates: Sequence[float], version: int) -> None:
        """Take note that a batch's records were updated with such rates, which made this version of the
        tables. Twice does no harm."""
        frozen = {table for table, rate in enumerate(rates) if rate == FROZEN}
        self.store.note_update(batch.records, frozen, version)

    @for_tables
    def cut(self, batch: SentBatch, activations: list[Tensor]) -> list[Tensor]:
        """The activations without the rows of samples that fill an inference batch up."""
        if batch.cut is None:
            return activations
        if self.exchange.ends_before_cut:
            self._end_program()
        return [
            each if count is None else each.narrow(0, 0, count)
            for each, count in zip(activations, batch.cut, strict=True)
        ]

    def _update_in_program(
        self,
        looked_up: LookedUp,
        gradients: Sequence[Tensor],
        rates: Sequence[float],
        samplers: Sequence[NormSampler],
        read_before: Sequence[Tensor],
    ) -> dict[int, Tensor]:
        """Update the stacks that sum their gradients; gives each occurrence's gradient for the others."""
        indices = looked_up.indices or self._indices(looked_up.batch)
        if looked_up.version != self.store.version or not looked_up.weight_records:
            records = self._gather(indices)  # another update or a load came between
        else:
            records = [self.exchange.enter(each) for each in looked_up.weight_records]
        known = {n: self.exchange.enter(each) for n, each in looked_up.row_gradients.items()}
        missing = [n for n in self.trained if n not in known]
        with calling(f"update by {looked_up.batch.name}"):
            per_row = self._row_gradients([indices[n] for n in missing], gradients)
        known.update(zip(missing, per_row, strict=True))
        squares = []
        waiting = {}
        for number in self.trained:
            gradient, stack = known[number], self.store.stacks[number]
            assert stack.rule is not None
            if stack.steps_per_occurrence:
                waiting[number] = self.exchange.leave(gradient)
                continue
            if samplers:
                sums = sums_of_squares(self.exchange, indices[number], gradient, records[number])
                squares.append((stack.table_indices, sums))
            if read_before and stack.reads_must_come_first:
                feature = indices[number].shape.order.spans[0].feature_index
                gradient = after(gradient, self.exchange.enter(read_before[feature]))
            parts, rate = self._enter(number), self.rates_on_device(number, rates)
            if stack.rule.moves_all_rows:
                apply_to_all_rows(parts, indices[number], gradient, rate)
            else:
                keys = self.rounding_keys.enter(number)
                apply_stack(parts, indices[number], records[number], gradient, rate, keys)
            self._store(number, parts)
        for sampler in samplers:
            sampler.keep(squares)
        return waiting

    def _update_each(
        self, number: int, batch: SentBatch, gradients: Tensor, rates: Sequence[float]
    ) -> None:
        """Update a stack once for each occurrence of an id, round batch by round batch."""
        rate = self.rates_on_device(number, rates)
        self._end_program()
        for round_batch in batch.round_batches[number]:
            self._apply_round_batch(number, round_batch, gradients, rate)
            self._end_program()

    def _apply_round_batch(
        self, number: int, round_batch: RoundBatch, gradients: Tensor, rate: Tensor
    ) -> None:
        enter, stack = self.exchange.enter, self.store.stacks[number]
        parts, ints = self._enter(number), enter(self.exchange.put(round_batch.ints))
        apply_round_batch(parts, stack, round_batch, ints, enter(gradients), rate)
        self._store(number, parts)

    @for_tables
    def sum_gradients(self, batch: SentBatch, gradients: Sequence[Tensor]) -> dict[int, Tensor]:
        """The gradient of each unique record of the stacks that are trained, `[U, D]`, 0 for padding.

        Sums over all lookups of the record, under any optimizer. A collective call.

        Args:
            gradients: one per feature, in feature order, shaped like its activations.
        """
        indices = self._indices(batch)
        per_row = self._row_gradients([indices[n] for n in self.trained], gradients, summed=True)
        return {
            n: self.exchange.leave(torch.where(indices[n].valid, gradient, 0.0))
            for n, gradient in zip(self.trained, per_row, strict=True)
        }

    def _row_gradients(
        self, indices: Sequence[StackIndex], gradients: Sequence[Tensor], summed: bool = False
    ) -> list[Tensor]:
        """The gradients that each stack's update takes.

        Returns:
            Per stack the gradient of each unique record `[U, D]`; of each occurrence `[N, D]` if the
            stack's optimizer steps once for each and `summed` is False.
        """
        found = []
        several = self.placement.num_devices > 1
        for index in indices:
            order = index.shape.order
            own = [self.exchange.enter(gradients[s.feature_index]) for s in order.spans]
            if not several and order.stack.steps_per_occurrence and not summed:
                found.append(join(lookup_gradients(index, own)))
            else:
                found.append(row_gradients(index, own))
        if not several or not found:
            return found
        parts = [(index.shape.num_devices, index.shape.positions_per_device) for index in indices]
        buffers = [each.view(*part, -1) for each, part in zip(found, parts, strict=True)]
        received = self.exchange.all_to_all(buffers)
        for number, (index, buffer) in enumerate(zip(indices, received, strict=True)):
            each = index.shape.order.stack.steps_per_occurrence and not summed
            found[number] = buffer.flatten(0, 1) if each else received_gradients(index, buffer)
        return found

    def _enter(self, number: int) -> list[Tensor]:
        hold(self.store.arrays[number])
        return [self.exchange.enter(array) for array in self.store.arrays[number]]

    def _store(self, number: int, parts: list[Tensor]) -> None:
        for array, part in zip(self.store.arrays[number], parts, strict=True):
            self.exchange.store(array, part)

    def _indices(self, batch: SentBatch) -> tuple[StackIndex, ...]:
        return split_buffers(batch.shapes, *map(self.exchange.enter, batch.buffers))

    def _end_program(self) -> None:
        if runtime.is_accelerated(self._device):
            runtime.sync()

    def _gather(self, indices: tuple[StackIndex, ...]) -> list[Tensor]:
        """The records of the array of each stack's weights."""
        return [
            gather_records(
                index.shape.order.stack.arrays[0], self.exchange.enter(arrays[0]), index.ints.record
            )
            for index, arrays in zip(indices, self.store.arrays, strict=True)
        ]

    def rates_on_device(self, number: int, rates: Sequence[float]) -> Tensor:
        """The rates of a stack's tables in a device buffer, out of those of all tables."""
        values = [rates[table] for table in self.store.stacks[number].table_indices]
        return self.rates[number].hold(values, lambda: host.floats(values).to(self._device))

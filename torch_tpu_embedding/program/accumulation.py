"""The gradients of the rows of several micro-batches, summed, so that one update takes them as one batch's.

The host has the unique records of each batch; it finds the unique records of all, and the position of each
batch's records among them. There the device adds up the sums of each batch. Letters: K batches, U unique
rows, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..batch.dedup import unique_inverse
from ..batch.occurrences import tables_of
from ..batch.padding import ROWS, PaddedSize
from ..batch.program_shape import StackOrder, StackShape
from ..config.resolved import Resolved
from ..runtime import host
from ..runtime.modes import for_tables
from ..runtime.slices import cut, join
from ..tables.layout import StackLayout
from .engine import Engine
from .stack_index import LookedUp, SentBatch
from .update import after


class Merger:
    """Makes one batch of several; owns the padded sizes of that batch, which fit the largest step so
    far."""

    def __init__(self, resolved: Resolved, engine: Engine) -> None:
        self._engine = engine
        self._padding = []
        self._feature = []  # one of each stack
        for stack in engine.store.stacks:
            tables = stack.table_indices
            names = ", ".join(repr(resolved.tables[table].name) for table in tables)
            self._padding.append(PaddedSize(f"unique rows of {names} in accumulated batches", ROWS))
            members = (n for n, f in enumerate(resolved.features) if f.table_index in tables)
            self._feature.append(next(members))

    @for_tables
    def merge(
        self,
        batches: Sequence[SentBatch],
        sums: Sequence[Mapping[int, Tensor]],
        activations: Sequence[Sequence[Tensor]],
    ) -> LookedUp:
        """All batches as one, whose row gradients are known; a collective call.

        Args:
            sums: the result of `Engine.sum_gradients` for each batch.
            activations: of each batch, in feature order. Where they were looked up in the same program as
                the update to come, that lookup comes first.
        """
        engine, exchange = self._engine, self._engine.exchange
        found = [self._unique(number, batches) for number in range(len(self._padding))]
        most = host.ints([max(len(each) for each in records) for records, _ in found])
        shapes = [
            StackShape(
                StackOrder(stack, ()),
                padding.fit(int(count) + 1, limit=stack.num_records + 1),
                num_ragged=0,
            )
            for stack, padding, count in zip(
                engine.store.stacks, self._padding, exchange.group.gather(most).amax(0), strict=True
            )
        ]
        ints: list[Tensor] = []
        positions: list[Tensor] = []
        for device in range(engine.placement.local_devices):
            for number, of_stack in enumerate(shapes):
                records, inverse = found[number][0][device], found[number][1][device]
                ints += _padded(of_stack, records)
                lengths = [len(batch.records[number][device]) for batch in batches]
                for batch, of_batch in zip(batches, torch.split(inverse, lengths), strict=True):
                    room = batch.shapes[number].num_unique
                    positions.append(_filled(of_batch, room, of_stack.num_unique - 1))
        merged = SentBatch(
            tuple(shapes),
            exchange.put(join(ints)),
            None,
            ((),) * len(shapes),
            tuple(tuple(records) for records, _ in found),
            batches[-1].name,
        )
        row_gradients = self._add_up(
            merged, exchange.put(join(positions)), batches, sums, activations
        )
        return LookedUp(merged, [], engine.store.version, engine.store.loads, row_gradients)

    def _unique(
        self, number: int, batches: Sequence[SentBatch]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The unique records of a stack in all batches, and the position among them of each batch's, per
        device."""
        records, positions = [], []
        bound = self._engine.store.stacks[number].num_records + 1
        for device in range(self._engine.placement.local_devices):
            held = [batch.records[number][device] for batch in batches]
            unique, inverse = unique_inverse(torch.cat(held).long(), bound)
            records.append(unique.to(torch.int32))
            positions.append(inverse)
        return records, positions

    def _add_up(
        self,
        merged: SentBatch,
        positions: Tensor,
        batches: Sequence[SentBatch],
        sums: Sequence[Mapping[int, Tensor]],
        activations: Sequence[Sequence[Tensor]],
    ) -> dict[int, Tensor]:
        exchange = self._engine.exchange
        rooms = [
            batch.shapes[number].num_unique
            for number in range(len(merged.shapes))
            for batch in batches
        ]
        rest = iter(cut(exchange.enter(positions), rooms))
        totals = {}
        for number, of_stack in enumerate(merged.shapes):
            here = [next(rest) for _ in batches]
            if number not in self._engine.trained:
                continue
            stack = of_stack.order.stack
            shape = (of_stack.num_unique, stack.dim)
            total = torch.zeros(shape, dtype=torch.float32, device=positions.device)
            for position, of_batch, looked_up in zip(here, sums, activations, strict=True):
                added = exchange.enter(of_batch[number])
                if stack.reads_must_come_first:
                    added = after(added, exchange.enter(looked_up[self._feature[number]]))
                total = total.index_add(0, position, added)
            totals[number] = exchange.leave(total)
        return totals


def _padded(shape: StackShape, records: Tensor) -> list[Tensor]:
    """The int32 numbers of a stack without lookups, in the order of `IntParts`."""
    stack: StackLayout = shape.order.stack
    found = [_filled(records, shape.num_unique, stack.padding_record)]
    if shape.has_several_tables:
        found.append(_filled(tables_of(stack, records), shape.num_unique, 0))
    return found


def _filled(values: Tensor, size: int, blank: int) -> Tensor:
    """The values and then as many blanks as make them `[size]`, int32."""
    out = torch.full((size,), blank, dtype=torch.int32, device="cpu")
    out[: len(values)] = values
    return out

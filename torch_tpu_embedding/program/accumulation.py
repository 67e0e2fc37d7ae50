"""The rows' gradients of several micro-batches together, so that one update takes them as one batch's.

The host has the unique records of each; it finds those of all, and where in them each batch's lie. The
device adds the sums of each batch up there. Letters: K batches, U unique rows, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..batch.dedup import unique_inverse
from ..batch.occurrences import tables_of
from ..batch.padding import ROWS, Bucket
from ..batch.program_shape import StackPlan, StackSizes
from ..config.resolved import Resolved
from ..runtime import host
from ..runtime.modes import for_tables
from ..runtime.slices import cut, join
from ..tables.layout import StackLayout
from .engine import Engine, LookedUp, SentBatch
from .update import after


class Merger:
    """Makes one batch of several; owns its padded sizes, which are those of the largest step so far."""

    def __init__(self, resolved: Resolved, engine: Engine) -> None:
        self._engine = engine
        self._padding = []
        self._feature = []  # one of each stack
        for stack in engine.store.stacks:
            tables = stack.table_indices
            names = ", ".join(repr(resolved.tables[table].name) for table in tables)
            self._padding.append(Bucket(f"unique rows of {names} in accumulated batches", ROWS))
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
            sums: of each batch what `Engine.sum_gradients` gave.
            activations: of each batch, in feature order. Where they were looked up in the same program as
                the update to come, that lookup comes first.
        """
        engine, exchange = self._engine, self._engine.exchange
        found = [self._unique(number, batches) for number in range(len(self._padding))]
        most = host.ints([max(len(each) for each in records) for records, _ in found])
        sizes = [
            StackSizes(
                StackPlan(stack, ()),
                padding.fit(int(count) + 1, limit=stack.num_records + 1),
                num_ragged=0,
            )
            for stack, padding, count in zip(
                engine.store.stacks, self._padding, exchange.group.gather(most).amax(0), strict=True
            )
        ]
        ints: list[Tensor] = []
        places: list[Tensor] = []
        for device in range(engine.placement.local_devices):
            for number, of_stack in enumerate(sizes):
                records, inverse = found[number][0][device], found[number][1][device]
                ints += _padded(of_stack, records)
                lengths = [len(batch.records[number][device]) for batch in batches]
                for batch, of_batch in zip(batches, torch.split(inverse, lengths), strict=True):
                    room = batch.sizes[number].num_unique
                    places.append(_filled(of_batch, room, of_stack.num_unique - 1))
        merged = SentBatch(
            tuple(sizes),
            exchange.put(join(ints)),
            exchange.put(host.empty(0)),
            ((),) * len(sizes),
            tuple(tuple(records) for records, _ in found),
            batches[-1].name,
        )
        row_gradients = self._add_up(merged, exchange.put(join(places)), batches, sums, activations)
        return LookedUp(merged, [], engine.version, engine.loads, row_gradients)

    def _unique(
        self, number: int, batches: Sequence[SentBatch]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Records of a stack in any batch, per device, and where in them each batch's lie."""
        records, places = [], []
        bound = self._engine.store.stacks[number].num_records + 1
        for device in range(self._engine.placement.local_devices):
            held = [batch.records[number][device] for batch in batches]
            unique, inverse = unique_inverse(torch.cat(held).long(), bound)
            records.append(unique.to(torch.int32))
            places.append(inverse)
        return records, places

    def _add_up(
        self,
        merged: SentBatch,
        places: Tensor,
        batches: Sequence[SentBatch],
        sums: Sequence[Mapping[int, Tensor]],
        activations: Sequence[Sequence[Tensor]],
    ) -> dict[int, Tensor]:
        exchange = self._engine.exchange
        rooms = [
            batch.sizes[number].num_unique
            for number in range(len(merged.sizes))
            for batch in batches
        ]
        rest = iter(cut(exchange.enter(places), rooms))
        totals = {}
        for number, of_stack in enumerate(merged.sizes):
            here = [next(rest) for _ in batches]
            if number not in self._engine.trained:
                continue
            stack = of_stack.plan.stack
            shape = (of_stack.num_unique, stack.dim)
            total = torch.zeros(shape, dtype=torch.float32, device=places.device)
            for place, of_batch, looked_up in zip(here, sums, activations, strict=True):
                added = exchange.enter(of_batch[number])
                if stack.reads_must_come_first:
                    added = after(added, exchange.enter(looked_up[self._feature[number]]))
                total = total.index_add(0, place, added)
            totals[number] = exchange.leave(total)
        return totals


def _padded(sizes: StackSizes, records: Tensor) -> list[Tensor]:
    """The int32 numbers of a stack of which only its records matter, in the order of `IntParts`."""
    stack: StackLayout = sizes.plan.stack
    found = [_filled(records, sizes.num_unique, stack.padding_record)]
    if sizes.has_several_tables:
        found.append(_filled(tables_of(stack, records), sizes.num_unique, 0))
    return found


def _filled(values: Tensor, size: int, blank: int) -> Tensor:
    """The values and then as many blanks as make them `[size]`, int32."""
    out = torch.full((size,), blank, dtype=torch.int32, device="cpu")
    out[: len(values)] = values
    return out

"""One batch on the host: per stack its unique records, the way back from each lookup, and the gains.

All that depends on the data happens here. The results are one int32 and one float32 buffer of sizes that
rarely change, so the device runs the same program at every step. With several devices, each asks the owners
of its rows for them, and the owners deduplicate the incoming requests; all processes agree on all sizes.

Letters: B batch, N lookups, U unique rows, D dim, S processes, P devices of a process, G devices of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.resolved import Resolved
from ..distributed.group import HostGroup
from ..distributed.placement import Placement
from ..inputs.at_once.bags import AtOnceBags, OneIdBags
from ..inputs.bags import Bags, split_bags
from ..runtime import host
from ..runtime.phases import phase, timed
from ..tables.layout import StackLayout
from .agreement import Report, kinds_of, most, tell
from .at_once.forms import Packers
from .bag_lengths import BagLengths
from .buffers import write_buffers
from .dedup import Ranks
from .occurrences import RoundBatch, round_batches_of
from .padding import StackPadding
from .program_shape import Form, StackOrder, StackShape, form_of, order_stacks
from .requests import (
    IncomingRequest,
    Request,
    UniqueRecords,
    make_requests,
    send_requests,
    unique_records,
)
from .sample_padding import Samples


@dataclass(frozen=True)
class HostBatch:
    """The numbers of one batch that go to the devices of this process."""

    shapes: tuple[StackShape, ...]
    """The program shape of each stack."""
    ints: Tensor
    """`[P · n]` int32: the parts of the devices, one after another."""
    floats: Tensor
    """`[P · m]` float32: the parts of the devices, one after another."""
    round_batches: tuple[tuple[RoundBatch, ...], ...]
    """The occurrences of each stack, in order; empty unless its optimizer steps once for each of them."""
    records: tuple[tuple[Tensor, ...], ...]
    """The unique records that each device of this process reads, per stack."""
    name: str
    """'batch 7', the number counted by its batcher; the same in all processes."""
    cut: tuple[int | None, ...] | None = None
    """The number of samples that the activations of each feature are cut to, None for a feature whose
    activations stay whole; None if no process has any to cut."""
    copy: host.DeviceCopy | None = None
    """Keeps `floats` on the device, if all batches of the same form have them."""

    def put_floats(self, put: Callable[[Tensor], Tensor]) -> Tensor | None:
        """`floats` on the device, None if there are none.

        Args:
            put: copies a tensor there.
        """
        if not self.floats.numel():
            return None
        copy = self.copy if self.copy is not None else host.DeviceCopy()
        return copy.hold((), lambda: put(self.floats))


@dataclass(frozen=True)
class _Agreed:
    """A batch of this process, with the sizes on which all processes agree."""

    parts: list[Sequence[Bags]]
    """The bags of each device of this process, in feature order."""
    orders: tuple[StackOrder, ...]
    requests: list[list[Request]]
    """The request of each device of this process, per stack."""
    counts: Tensor
    """`[S, stacks, P, G]`: the number of records that each device asks each device for."""
    ragged: list[int]
    """The most ragged ids of any device, per stack."""
    times: int
    """The size of the batch as a multiple of the samples that programs are made for."""
    is_filled: bool
    """True if a process has fewer samples, so that its batch is filled up."""


class Batcher:
    """Turns the bags of all features into host batches; owns the orders of features and the padded sizes.

    Args:
        name: follows the number in the names of its batches, for messages.
        starts: table → a digest of its start values, which must be equal in all processes.
    """

    def __init__(
        self,
        resolved: Resolved,
        stacks: tuple[StackLayout, ...],
        placement: Placement,
        group: HostGroup,
        name: str = "",
        starts: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._starts = starts if starts is not None else {}
        self._made = 0
        self._ranks = Ranks()
        self._resolved = resolved
        self._stacks = stacks
        self._placement = placement
        self.group = self._group = group
        """The processes that make a batch together."""
        self._orders: dict[tuple[Form, ...], tuple[StackOrder, ...]] = {}
        self._names = [
            ", ".join(repr(resolved.tables[t].name) for t in stack.table_indices)
            for stack in stacks
        ]
        self._padding: dict[tuple[bool, int], list[StackPadding]] = {}
        each_occurrence = {t for s in stacks if s.steps_per_occurrence for t in s.table_indices}
        may_have_one_length = [
            each.table_index not in each_occurrence for each in resolved.features
        ]
        self._has_rounds = bool(each_occurrence)
        self._packers = Packers(resolved, self._order, self._ranks)
        features = [each.name for each in resolved.features]
        self._lengths = {kind: BagLengths(features, may_have_one_length) for kind in (True, False)}

    def adopt_sizes(self, other: Batcher) -> None:
        """Pad as another batcher of the same tables does, if that one has begun with the sizes of this
        one."""
        for key, padding in other._padding.items():
            for mine, its in zip(self._padding_of(*key), padding, strict=True):
                mine.adopt(its)
        for training, lengths in self._lengths.items():
            lengths.adopt(other._lengths[training])

    def _padding_of(self, training: bool, times: int) -> list[StackPadding]:
        """The padded sizes of each stack.

        Training and inference are different programs anyway, and so are batches of one and of several
        times the batch size: neither makes the other's sizes grow.
        """
        known = self._padding.get((training, times))
        if known is not None:
            return known
        kind = ("training" if training else "inference") + (f" x {times}" if times > 1 else "")
        made = [StackPadding(f"{name} in {kind}") for name in self._names]
        self._padding[training, times] = made
        return made

    @timed("dedup")
    def make(
        self,
        bags: Sequence[Bags] | Exception,
        training: bool = True,
        samples: Samples | None = None,
    ) -> HostBatch:
        """Deduplicate, exchange and pad one batch; a collective call.

        Args:
            bags: in feature order, or the error because of which this process has none.
            samples: None if there are as many as the program is made for.

        Raises:
            Exception: `bags`, if it is one; PeerError if another process gave one.
            ValueError: the batches of the processes are not of the same kinds.
        """
        self._made += 1
        if isinstance(bags, AtOnceBags) and self._takes_at_once(samples):
            lengths = self._lengths[training].those_of(bags)
            if lengths is not None:
                times = samples.times if samples is not None else 1
                return self._make_at_once(bags, training, lengths, times)
        agreed = self._agree(bags, training, samples)
        parts, orders, requests = agreed.parts, agreed.orders, agreed.requests
        padding = self._padding_of(training, agreed.times)
        incoming: list[list[IncomingRequest]] = []
        if self._placement.num_devices == 1:
            records = [[UniqueRecords(only.records, only.inverse)] for (only,) in requests]
        else:
            with phase("exchange"):
                devices = self._placement.local_devices
                incoming = send_requests(requests, agreed.counts, self._group, devices)
            records = [
                [unique_records(order.stack, device, self._ranks) for device in of_stack]
                for order, of_stack in zip(orders, incoming, strict=True)
            ]
        unique = most(
            self._group, [max(o.records.numel() for o in of_stack) for of_stack in records]
        )
        asked = agreed.counts.amax((0, 2, 3)).tolist()
        shapes = tuple(
            self._fit(order, padding[n], unique[n], agreed.ragged[n], asked[n])
            for n, order in enumerate(orders)
        )
        round_batches = (
            round_batches_of(shapes, parts[0], incoming, records, padding, self._group)
            if training
            else ((),) * len(shapes)
        )
        return HostBatch(
            shapes,
            *write_buffers(shapes, requests, incoming, records, parts),
            round_batches,
            tuple(tuple(each.records for each in of_stack) for of_stack in records),
            f"batch {self._made}{self._name}",
            tuple(samples.count if each else None for each in samples.follows)
            if samples is not None and agreed.is_filled
            else None,
        )

    def _takes_at_once(self, samples: Samples | None) -> bool:
        """True if a batch needs no other device and no sample without ids."""
        is_whole = samples is None or samples.count == samples.times * samples.unit
        return is_whole and self._placement.num_devices == 1 and not self._has_rounds

    def _make_at_once(
        self, bags: AtOnceBags, training: bool, lengths: tuple[int, ...], times: int
    ) -> HostBatch:
        """As `make`, for a batch that `_takes_at_once`, with the lengths that its features have."""
        padding = self._padding_of(training, times)
        for each in padding:
            each.take_agreed(each.wishes)
        orders, packer = self._packers.of(bags, lengths)
        packed = packer.pack(
            bags, lambda n, unique, ragged: self._fit(orders[n], padding[n], unique, ragged, 0)
        )
        return HostBatch(
            packed.shapes,
            packed.ints,
            packed.floats,
            ((),) * len(packed.shapes),
            tuple((each,) for each in packed.records),
            f"batch {self._made}{self._name}",
            copy=packed.copy,
        )

    def _order(self, forms: tuple[Form, ...]) -> tuple[StackOrder, ...]:
        if forms not in self._orders:
            self._orders[forms] = order_stacks(self._resolved, self._stacks, forms)
        return self._orders[forms]

    def _agree(
        self, bags: Sequence[Bags] | Exception, training: bool, samples: Samples | None
    ) -> _Agreed:
        """Choose the sizes of a batch together with all other processes."""
        error = bags if isinstance(bags, Exception) else None
        times = samples.times if samples is not None else 1
        lengths = self._lengths[training]
        while True:
            parts: list[Sequence[Bags]] = []
            if not isinstance(bags, Exception):
                try:
                    whole = bags if samples is None else samples.fill(bags, times)
                    parts = self._split(whole)
                except ValueError as found:
                    error = found
            first_part = parts[0] if parts else ()
            arranged = [lengths.arrange(part) for part in parts]
            seen = lengths.observe(arranged)
            orders = self._order(tuple(map(form_of, arranged[0]))) if arranged else ()
            requests = [
                make_requests(self._resolved, order, arranged, self._placement, self._ranks)
                for order in orders
            ]
            missing = times * samples.unit - samples.count if samples is not None else 0
            padding = self._padding_of(training, times)
            report = Report(
                error,
                kinds_of(first_part, training) if self._group.size > 1 else "",
                {**self._starts},
                times,
                missing,
                *self._ask(orders, requests),
                seen,
                [each.wishes for each in padding],
            )
            with phase("exchange"):
                told = tell(self._group, report)
            if not told.times_agree:
                times = told.times
                continue
            for each, agreed in zip(padding, told.sizes, strict=True):
                each.take_agreed(agreed)
            if not lengths.decide(told.seen):
                counts, ragged = told.counts, told.ragged
                return _Agreed(arranged, orders, requests, counts, ragged, times, told.is_filled)

    def _split(self, bags: Sequence[Bags]) -> list[Sequence[Bags]]:
        """Share the samples of a batch among the devices of this process."""
        devices = self._placement.local_devices
        if isinstance(bags, OneIdBags) and bags.size % devices == 0:
            return [*bags.split(devices)] if devices > 1 else [bags]
        return split_bags(self._resolved.features, bags, devices)

    def _ask(
        self, orders: tuple[StackOrder, ...], requests: list[list[Request]]
    ) -> tuple[Tensor, list[int]]:
        """Count a batch of this process.

        Returns:
            `[stacks, P, G]`, the records that each device asks each device for; and the most ragged ids of
            a device, per stack.
        """
        shape = (len(self._stacks), self._placement.local_devices, self._placement.num_devices)
        counts, ragged = torch.zeros(shape, dtype=torch.int64, device="cpu"), [0] * shape[0]
        for number, (order, of_stack) in enumerate(zip(orders, requests, strict=True)):
            counts[number] = torch.stack([request.counts for request in of_stack])
            lookups = max(request.inverse.numel() for request in of_stack)
            ragged[number] = lookups - order.num_one_hot - order.num_fixed_length
        return counts, ragged

    def _fit(
        self, order: StackOrder, padding: StackPadding, unique: int, ragged: int, asked: int
    ) -> StackShape:
        devices = self._placement.num_devices
        limit = order.stack.num_records
        if devices == 1 and not order.num_bags:
            limit = min(limit, order.num_one_hot + order.num_fixed_length)
        return StackShape(
            order,
            padding.unique.fit(unique + 1, limit=limit + 1),
            padding.ragged.fit(ragged) if order.num_bags else 0,
            devices,
            padding.positions_per_device.fit(asked + 1) if devices > 1 else 0,
        )

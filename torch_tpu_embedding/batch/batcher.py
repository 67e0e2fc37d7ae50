"""One batch on the host: per stack its unique records, the way back from each id, and the gains.

All that depends on the data happens here; what leaves is one int32 and one float32 buffer of sizes that
rarely change, so the device runs the same program at every step. With several devices, each asks the owners
of its rows for them, and the owners deduplicate what they are asked for; all processes agree on all sizes.

Letters: B batch, N ids, U unique rows, D dim, S processes, L devices of this process, G devices of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.resolved import Resolved
from ..distributed.group import HostGroup
from ..inputs.bags import Bags, split_bags
from ..runtime import host
from ..runtime.phases import phase, timed
from ..runtime.slices import join
from ..tables.layout import StackLayout
from ..tables.placement import Placement
from .agreement import Report, tell
from .bag_lengths import BagLengths
from .buffers import float_buffer, incoming_positions, int_buffer
from .occurrences import Occurrences, RoundBatch, group_occurrences, make_round_batches
from .padding import StackPadding
from .program_shape import Form, StackOrder, StackShape, form_of, order_stacks
from .requests import IncomingRequest, Request, UniqueRecords, batch_order, make_request, own, serve
from .sample_padding import Samples


@dataclass(frozen=True)
class HostBatch:
    """What one enqueue sends to the devices of this process."""

    sizes: tuple[StackShape, ...]
    ints: Tensor
    """`[L · n]` int32: the parts of the devices, one after another."""
    floats: Tensor
    """`[L · m]` float32, likewise."""
    chunks: tuple[tuple[RoundBatch, ...], ...]
    """Per stack, the occurrences in order, if its optimizer steps once for each of them."""
    records: tuple[tuple[Tensor, ...], ...]
    """Per stack and device of this process, the unique records that are looked up there."""
    name: str
    """'batch 7': which one of its batcher's, the same in all processes."""
    cut: tuple[int | None, ...] | None = None
    """Per feature the samples that activations shall be cut to, None for those that are whole; None if no
    process has any to cut."""


@dataclass(frozen=True)
class _Agreed:
    """A batch of this process, planned as all others plan theirs."""

    parts: list[list[Bags]]
    """Of each device, in feature order."""
    plans: tuple[StackOrder, ...]
    requests: list[list[Request]]
    """Per stack and device of this process."""
    counts: Tensor
    """`[S, stacks, L, G]`: how many records each device asks of each."""
    ragged: list[int]
    """Per stack, the most ragged ids of a device of all."""
    times: int
    """How many units of samples it is planned for."""
    is_filled: bool
    """Whether a process has fewer samples than that."""


class Batcher:
    """Turns the bags of all features into host batches; owns the plans and the buckets.

    Args:
        name: what its batches are of, for messages.
        starts: per table, start values that must be those of the other processes.
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
        self._resolved = resolved
        self._stacks = stacks
        self._placement = placement
        self._group = group
        self._plans: dict[tuple[Form, ...], tuple[StackOrder, ...]] = {}
        self._names = [
            ", ".join(repr(resolved.tables[t].name) for t in stack.table_indices)
            for stack in stacks
        ]
        self._padding: dict[tuple[bool, int], list[StackPadding]] = {}
        each_occurrence = {t for s in stacks if s.steps_per_occurrence for t in s.table_indices}
        may_have_one_length = [
            each.table_index not in each_occurrence for each in resolved.features
        ]
        features = [each.name for each in resolved.features]
        self._lengths = {kind: BagLengths(features, may_have_one_length) for kind in (True, False)}

    def adopt_sizes(self, other: Batcher) -> None:
        """Pad as another batcher of the same tables does, if that one has begun with these sizes."""
        for key, padding in other._padding.items():
            for mine, its in zip(self._padding_of(*key), padding, strict=True):
                mine.adopt(its)
        for training, lengths in self._lengths.items():
            lengths.adopt(other._lengths[training])

    def _padding_of(self, training: bool, times: int) -> list[StackPadding]:
        """The padded sizes of each stack.

        Training and inference are different programs anyway, and so are batches of one and of several
        times the batch size: none shall make the other's sizes grow.
        """
        kind = ("training" if training else "inference") + (f" x {times}" if times > 1 else "")
        made = [StackPadding(f"{name} in {kind}") for name in self._names]
        return self._padding.setdefault((training, times), made)

    @timed("dedup")
    def make(
        self,
        bags: list[Bags] | Exception,
        training: bool = True,
        samples: Samples | None = None,
    ) -> HostBatch:
        """Deduplicate, exchange and pad one batch; a collective call.

        Args:
            bags: in feature order, or why this process has none.
            samples: None if there are as many as the program is made for.

        Raises:
            Exception: the one given, or PeerError if another process gave one.
            ValueError: the batches of the processes are not of the same kinds.
        """
        self._made += 1
        agreed = self._agree(bags, training, samples)
        parts, plans, requests = agreed.parts, agreed.plans, agreed.requests
        padding = self._padding_of(training, agreed.times)
        served: list[list[IncomingRequest]] = []
        if self._placement.num_devices == 1:
            owned = [[UniqueRecords(only.records, only.inverse)] for (only,) in requests]
        else:
            with phase("exchange"):
                devices = self._placement.local_devices
                served = serve(requests, agreed.counts, self._group, devices)
            owned = [
                [own(plan.stack, device) for device in of_stack]
                for plan, of_stack in zip(plans, served, strict=True)
            ]
        unique = self._most([max(o.records.numel() for o in of_stack) for of_stack in owned])
        blocks = agreed.counts.amax((0, 2, 3)).tolist()
        sizes = tuple(
            self._fit(plan, padding[n], unique[n], agreed.ragged[n], blocks[n])
            for n, plan in enumerate(plans)
        )
        chunks = (
            self._round_batches(sizes, parts[0], served, owned) if training else ((),) * len(sizes)
        )
        ints, floats = [], []
        for device, part in enumerate(parts):
            for n, of_stack in enumerate(sizes):
                asked = served[n][device] if served else None
                request, own_records = requests[n][device], owned[n][device]
                ints.append(int_buffer(of_stack, request, asked, own_records, part))
                floats.append(float_buffer(of_stack, part))
        return HostBatch(
            sizes,
            join(ints),
            join(floats),
            chunks,
            tuple(tuple(each.records for each in of_stack) for of_stack in owned),
            f"batch {self._made}{self._name}",
            tuple(samples.count if each else None for each in samples.follows)
            if samples is not None and agreed.is_filled
            else None,
        )

    def _plan(self, bags: list[Bags]) -> tuple[StackOrder, ...]:
        forms = tuple(map(form_of, bags))
        if forms not in self._plans:
            self._plans[forms] = order_stacks(self._resolved, self._stacks, forms)
        return self._plans[forms]

    def _agree(
        self, bags: list[Bags] | Exception, training: bool, samples: Samples | None
    ) -> _Agreed:
        """Plan a batch in the same way on all processes."""
        error = bags if isinstance(bags, Exception) else None
        times = samples.times if samples is not None else 1
        lengths = self._lengths[training]
        while True:
            parts: list[list[Bags]] = []
            if not isinstance(bags, Exception):
                try:
                    whole = bags if samples is None else samples.fill(bags, times)
                    parts = split_bags(
                        self._resolved.features, whole, self._placement.local_devices
                    )
                except ValueError as found:
                    error = found
            first_part = parts[0] if parts else []
            arranged = [lengths.arrange(part) for part in parts]
            seen = lengths.observe(arranged)
            plans = self._plan(arranged[0]) if arranged else ()
            requests = [
                [make_request(self._resolved, plan, part, self._placement) for part in arranged]
                for plan in plans
            ]
            missing = times * samples.unit - samples.count if samples is not None else 0
            padding = self._padding_of(training, times)
            report = Report(
                error,
                _kinds(first_part, training) if self._group.size > 1 else "",
                {**self._starts},
                times,
                missing,
                *self._ask(plans, requests),
                seen,
                [each.wishes for each in padding],
            )
            with phase("exchange"):
                told = tell(self._group, report)
            if not told.times_agree:
                times = told.times
                continue
            for each, sizes in zip(padding, told.sizes, strict=True):
                each.settle(sizes)
            if not lengths.settle(told.seen):
                counts, ragged = told.counts, told.ragged
                return _Agreed(arranged, plans, requests, counts, ragged, times, told.is_filled)

    def _ask(
        self, plans: tuple[StackOrder, ...], requests: list[list[Request]]
    ) -> tuple[Tensor, list[int]]:
        """`[stacks, L, G]` records that each device asks of each; per stack the most ragged ids of one."""
        shape = (len(self._stacks), self._placement.local_devices, self._placement.num_devices)
        counts, ragged = torch.zeros(shape, dtype=torch.int64, device="cpu"), [0] * shape[0]
        for number, (plan, of_stack) in enumerate(zip(plans, requests, strict=True)):
            counts[number] = torch.stack([request.counts for request in of_stack])
            most = max(request.inverse.numel() for request in of_stack)
            ragged[number] = most - plan.num_one_hot - plan.num_fixed_length
        return counts, ragged

    def _most(self, values: list[int]) -> list[int]:
        with phase("exchange"):
            if self._group.size == 1:
                return values
            most: list[int] = self._group.gather(host.ints(values)).amax(0).tolist()
        return most

    def _fit(
        self, plan: StackOrder, padding: StackPadding, unique: int, ragged: int, block: int
    ) -> StackShape:
        devices = self._placement.num_devices
        limit = plan.stack.num_records
        if devices == 1 and not plan.num_bags:
            limit = min(limit, plan.num_one_hot + plan.num_fixed_length)
        return StackShape(
            plan,
            padding.unique.fit(unique + 1, limit=limit + 1),
            padding.ragged.fit(ragged) if plan.num_bags else 0,
            devices,
            padding.positions_per_device.fit(block + 1) if devices > 1 else 0,
        )

    def _round_batches(
        self,
        sizes: tuple[StackShape, ...],
        part: list[Bags],
        served: list[list[IncomingRequest]],
        owned: list[list[UniqueRecords]],
    ) -> tuple[tuple[RoundBatch, ...], ...]:
        """The occurrences of the stacks that step once for each, in as many chunks on every device."""
        found: dict[int, list[Occurrences]] = {}
        for n, of_stack in enumerate(sizes):
            if not of_stack.order.stack.steps_per_occurrence:
                continue
            if served:
                pairs = zip(served[n], owned[n], strict=True)
                found[n] = [_incoming_occurrences(of_stack, *pair) for pair in pairs]
            else:
                order = batch_order(of_stack.order, part)
                found[n] = [
                    group_occurrences(own.records, own.of_incoming, order) for own in owned[n]
                ]
        if not found:
            return ((),) * len(sizes)
        needed = {n: [each.rows_of_round_batches() for each in found[n]] for n in found}
        count = self._most([max(map(len, needed[n])) for n in found])
        rows = self._most(
            [
                max(each[k] if k < len(each) else 0 for each in needed[n])
                for n, most in zip(found, count, strict=True)
                for k in range(most)
            ]
        )
        chunks: list[tuple[RoundBatch, ...]] = [()] * len(sizes)
        for n, most in zip(found, count, strict=True):
            stack, padding = sizes[n].order.stack, self._padding_of(True, 1)[n]
            chunks[n] = make_round_batches(stack, found[n], rows[:most], padding.chunks)
            rows = rows[most:]
        return tuple(chunks)


def _incoming_occurrences(
    sizes: StackShape, served: IncomingRequest, owned: UniqueRecords
) -> Occurrences:
    """The occurrences that all devices sent to one, due feature after feature, then by sample."""
    assert served.features is not None
    of_position = incoming_positions(sizes, served, owned)
    slots = (of_position < len(owned.records)).nonzero()[:, 0]
    return group_occurrences(
        owned.records, of_position, slots[torch.argsort(served.features, stable=True)]
    )


def _kinds(bags: list[Bags], training: bool) -> str:
    """What of a batch must be equal in all processes; `bags` are those of one device."""
    kinds = [(number, each.bag is None, each.shape) for number, each in enumerate(bags)]
    return f"{'training' if training else 'inference'}{kinds}"

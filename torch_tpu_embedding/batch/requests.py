"""Which records each device wants of which device, and how the owners come to know.

Letters: N ids, U unique rows, S processes, L devices of a process, G devices of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config.resolved import Resolved
from ..distributed.group import HostGroup
from ..inputs.bags import NO_ID, Bags
from ..runtime import host
from ..tables.layout import StackLayout
from ..tables.placement import Placement
from .dedup import unique_inverse
from .program_shape import StackOrder


@dataclass(frozen=True)
class Request:
    """What one device asks of all, for one stack."""

    records: Tensor
    """`[n]` int32 record numbers on their owners, those of device 0 first."""
    counts: Tensor
    """`[G]` int64: how many of them are on each device."""
    inverse: Tensor
    """`[N]` integers: the position in `records` of each place of the batch; n or more if it has no id."""
    features: Tensor | None = None
    """`[n]` int32: the feature of each record; only where records stand once for every occurrence."""

    def slots(self, block: int) -> Tensor:
        """`[N]`: for each place of the batch its slot in blocks of that size; the last one is padding."""
        devices = host.arange(len(self.counts))
        starts = self.counts.cumsum(0) - self.counts
        shift = (devices * block - starts).repeat_interleave(self.counts)
        slots = host.arange(len(self.records)) + shift
        return torch.cat([slots, host.ints([len(devices) * block - 1])])[self.inverse]


@dataclass(frozen=True)
class IncomingRequest:
    """What one device is asked for by all, for one stack."""

    records: Tensor
    """`[m]` int32, in the order of the devices that ask."""
    lengths: list[int]
    """How many each of the G devices asks for."""
    features: Tensor | None = None


@dataclass(frozen=True)
class UniqueRecords:
    """The unique records of one stack that one device looks up, for itself and for others."""

    records: Tensor
    """`[U]` int32, rising."""
    of_incoming: Tensor
    """`[m]` int32: the position in `records` of each record it is asked for."""


def own(stack: StackLayout, served: IncomingRequest) -> UniqueRecords:
    """Deduplicate what all devices ask of one."""
    records, of_incoming = unique_inverse(served.records.long(), stack.num_records + 1)
    return UniqueRecords(records.to(torch.int32), of_incoming)


def make_request(
    resolved: Resolved, plan: StackOrder, bags: list[Bags], placement: Placement
) -> Request:
    """Deduplicate the ids of one device and stack, and find their owners.

    An optimizer that steps once per occurrence needs the gradient of each: on several devices its ids
    are not deduplicated before they are sent, but ordered by feature and sample.
    """
    stack = plan.stack
    devices, stride = placement.num_devices, stack.num_records + 1
    no_id = devices * stride - 1  # the padding record of the last device: greater than all others
    parts = [bags[span.feature_index] for span in plan.spans]
    lengths = [part.ids.numel() for part in parts]
    addresses = torch.cat([part.ids for part in parts])
    has_gaps = any(part.bag is None and part.num_ids < part.ids.numel() for part in parts)
    gaps = addresses == NO_ID if has_gaps else None
    _to_addresses(resolved, plan, addresses, lengths, placement)
    if gaps is not None:
        np.copyto(addresses.numpy(), no_id, where=gaps.numpy())
    if devices > 1 and stack.steps_per_occurrence:
        return _request_all(plan, bags, addresses, lengths, no_id, stride, devices)
    unique, inverse = unique_inverse(addresses, devices * stride)
    if len(unique) and int(unique[-1]) == no_id:
        unique = unique[:-1]
    if devices == 1:
        return Request(unique.to(torch.int32), host.ints([len(unique)]), inverse)
    owner = unique // stride
    counts = torch.bincount(owner, minlength=devices)
    return Request((unique - owner * stride).to(torch.int32), counts, inverse)


def _to_addresses(
    resolved: Resolved, plan: StackOrder, ids: Tensor, lengths: list[int], placement: Placement
) -> None:
    """Make of each id of the batch, in place, its device · stride + record."""
    stack = plan.stack
    first = dict(zip(stack.table_indices, stack.first_records, strict=True))
    tables = [resolved.features[span.feature_index].table_index for span in plan.spans]
    if placement.num_devices > 1:
        for table, part in zip(tables, torch.split(ids, lengths), strict=True):
            vocabulary = resolved.tables[table].vocabulary_size
            device, row = placement.locate(table, vocabulary, part)
            torch.add(row, device, alpha=stack.num_records + 1, out=part)
    addresses = ids.numpy()
    addresses += np.repeat([first[table] for table in tables], lengths)


def _request_all(
    plan: StackOrder,
    bags: list[Bags],
    address: Tensor,
    lengths: list[int],
    no_id: int,
    stride: int,
    devices: int,
) -> Request:
    order = batch_order(plan, bags)
    numbers = [span.feature_index for span in plan.spans]
    feature = torch.tensor(numbers, dtype=torch.int32, device="cpu").repeat_interleave(
        host.ints(lengths)
    )
    order = order[address[order] != no_id]
    owner = address[order] // stride
    by_owner = torch.argsort(owner, stable=True)
    order, owner = order[by_owner], owner[by_owner]
    inverse = torch.full((len(address),), len(order), dtype=torch.int64, device="cpu")
    inverse[order] = host.arange(len(order))
    records = (address[order] - owner * stride).to(torch.int32)
    return Request(records, torch.bincount(owner, minlength=devices), inverse, feature[order])


def batch_order(plan: StackOrder, bags: list[Bags]) -> Tensor:
    """The places of a batch, which lie span after span, in the order of the features."""
    lengths = [len(bags[span.feature_index].ids) for span in plan.spans]
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    numbers = sorted(range(len(lengths)), key=lambda number: plan.spans[number].feature_index)
    return torch.cat([host.arange(ends[n] - lengths[n], ends[n]) for n in numbers])


def serve(
    requests: list[list[Request]], counts: Tensor, group: HostGroup, local_devices: int
) -> list[list[IncomingRequest]]:
    """Send the requests to their owners: per stack and device of this process, who asks it for what.

    Args:
        requests: per stack, of each device of this process.
        counts: of all processes, `[S, stacks, L, G]`.
    """
    size, rank, mine = group.size, group.rank, range(local_devices)
    wide = counts.view(size, len(requests), local_devices, size, local_devices)
    per_process = wide.sum(-1).tolist()
    pieces: list[list[Tensor]] = [[] for _ in range(size)]
    for number, of_stack in enumerate(requests):
        for device, request in enumerate(of_stack):
            lengths = per_process[rank][number][device]
            for sent in (request.records, request.features):
                if sent is not None:
                    for process, part in enumerate(torch.split(sent, lengths)):
                        pieces[process].append(part)
    copies = [1 + (of_stack[0].features is not None) for of_stack in requests]
    expected = [
        sum(
            copy * n[device][rank]
            for copy, n in zip(copies, of_process, strict=True)
            for device in mine
        )
        for of_process in per_process
    ]
    received = group.all_to_all([torch.cat(piece) for piece in pieces], expected)
    detailed = wide[:, :, :, rank].tolist()  # [S, stacks, L asking, L here]
    served: list[list[IncomingRequest]] = []
    places = [0] * size
    for number in range(len(requests)):
        parts: list[list[list[Tensor]]] = [[[] for _ in mine] for _ in range(copies[number])]
        asked: list[list[int]] = [[] for _ in mine]
        for process in range(size):
            for device in mine:
                lengths = detailed[process][number][device]
                for copy in range(copies[number]):
                    end = places[process] + sum(lengths)
                    block = received[process][places[process] : end]
                    places[process] = end
                    for here, part in enumerate(torch.split(block, lengths)):
                        parts[copy][here].append(part)
                for here, length in enumerate(lengths):
                    asked[here].append(length)
        joined = [[torch.cat(pieces) for pieces in of_copy] for of_copy in parts]
        served.append(
            [
                IncomingRequest(
                    joined[0][here], asked[here], joined[1][here] if len(joined) > 1 else None
                )
                for here in mine
            ]
        )
    return served

"""Requests: the records that each device wants of each other device, sent to their owners.

Letters: N lookups, U unique rows, S processes, P devices of a process, G devices of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config.resolved import Resolved
from ..distributed.group import HostGroup
from ..distributed.placement import Placement
from ..inputs.at_once.bags import OneIdBags
from ..inputs.bags import NO_ID, Bags
from ..runtime import host
from ..tables.layout import StackLayout
from .dedup import Ranks, unique_by
from .program_shape import StackOrder


@dataclass(frozen=True)
class Request:
    """The records of one stack that one device asks all devices for."""

    records: Tensor
    """`[n]` int32: record numbers on their owners, those on device 0 first."""
    counts: Tensor
    """`[G]` int64: the number of requested records on each device."""
    inverse: Tensor
    """`[N]` integers: the position in `records` of each lookup; n or more for a lookup without an id."""
    features: Tensor | None = None
    """`[n]` int32: the feature of each record; only where `records` has one record for every occurrence."""

    def positions(self, per_device: int) -> Tensor:
        """The position in the exchange buffer of each lookup `[N]`; the buffer's last one is padding.

        Args:
            per_device: positions in the exchange buffer for each device.
        """
        devices = host.arange(len(self.counts))
        starts = self.counts.cumsum(0) - self.counts
        shift = (devices * per_device - starts).repeat_interleave(self.counts)
        positions = host.arange(len(self.records)) + shift
        return torch.cat([positions, host.ints([len(devices) * per_device - 1])])[self.inverse]


@dataclass(frozen=True)
class IncomingRequest:
    """The records of one stack that all devices ask one device for."""

    records: Tensor
    """`[m]` int32, in the order of the devices that ask."""
    lengths: list[int]
    """The number of records that each of the G devices asks for."""
    features: Tensor | None = None
    """`[m]` int32: the feature of each record, where the requests have it."""


@dataclass(frozen=True)
class UniqueRecords:
    """The records of one stack that one device reads, each once, for itself and for others."""

    records: Tensor
    """`[U]` int32, rising."""
    of_incoming: Tensor
    """`[m]` int32: the position in `records` of each record of the incoming request."""


def unique_records(stack: StackLayout, incoming: IncomingRequest, ranks: Ranks) -> UniqueRecords:
    """Deduplicate the records that all devices ask one device for."""
    bound = stack.num_records + 1
    records, of_incoming = unique_by(ranks, incoming.records.long(), bound)
    return UniqueRecords(records.to(torch.int32), of_incoming)


def make_request(
    resolved: Resolved,
    order: StackOrder,
    bags: Sequence[Bags],
    placement: Placement,
    ranks: Ranks | None = None,
) -> Request:
    """Deduplicate the ids of one device and stack, and find their owners.

    An optimizer that steps once per occurrence needs the gradient of each: on several devices its ids
    are not deduplicated before they are sent, but ordered by feature and sample.

    Args:
        bags: of the device, in feature order.
        ranks: used if they can hold the stack's records; None for the slower reference.
    """
    stack = order.stack
    devices, stride = placement.num_devices, stack.num_records + 1
    no_id = devices * stride - 1  # the padding record of the last device: greater than all others
    addresses, lengths, has_gaps = _ids_of(order, bags)
    gaps = addresses == NO_ID if has_gaps else None
    _to_addresses(resolved, order, addresses, lengths, placement)
    if gaps is not None:
        np.copyto(addresses.numpy(), no_id, where=gaps.numpy())
    if devices > 1 and stack.steps_per_occurrence:
        return _request_all(order, bags, addresses, lengths, no_id, stride, devices)
    runs = _runs(resolved, order, lengths) if devices == 1 and not has_gaps else []
    unique, inverse = unique_by(ranks, addresses, devices * stride, runs)
    if len(unique) and int(unique[-1]) == no_id:
        unique = unique[:-1]
    if devices == 1:
        return Request(unique.to(torch.int32), host.ints([len(unique)]), inverse)
    owner = unique // stride
    counts = torch.bincount(owner, minlength=devices)
    return Request((unique - owner * stride).to(torch.int32), counts, inverse)


def _ids_of(order: StackOrder, bags: Sequence[Bags]) -> tuple[Tensor, list[int], bool]:
    """The ids of a stack's lookups `[N]` in memory of their own, how many each span has, and True if
    positions without an id may be among them."""
    if isinstance(bags, OneIdBags):
        numbers = [span.feature_index for span in order.spans]
        ids = bags.ids.clone() if len(numbers) == len(bags) else bags.ids[numbers]
        return ids.view(-1), [bags.size] * len(numbers), False
    parts = [bags[span.feature_index] for span in order.spans]
    has_gaps = any(part.bag is None and part.num_ids < part.ids.numel() for part in parts)
    ids = torch.cat([part.ids for part in parts])
    return ids, [part.ids.numel() for part in parts], has_gaps


def _runs(resolved: Resolved, order: StackOrder, lengths: list[int]) -> list[list[slice]]:
    """The lookups of each table of a stack, in the order of the tables' records."""
    found: dict[int, list[slice]] = {table: [] for table in order.stack.table_indices}
    end = 0
    for span, length in zip(order.spans, lengths, strict=True):
        start, end = end, end + length
        found[resolved.features[span.feature_index].table_index].append(slice(start, end))
    runs = [[part for part in parts if part.start < part.stop] for parts in found.values()]
    return [run for run in runs if run]


def _to_addresses(
    resolved: Resolved, order: StackOrder, ids: Tensor, lengths: list[int], placement: Placement
) -> None:
    """Turn each id of the batch, in place, into its address: device · stride + record."""
    stack = order.stack
    first = dict(zip(stack.table_indices, stack.first_records, strict=True))
    tables = [resolved.features[span.feature_index].table_index for span in order.spans]
    if placement.num_devices > 1:
        rows = [resolved.tables[table].vocabulary_size for table in tables]
        places: list[tuple[int | Tensor, int | Tensor, Tensor]]
        places = [*zip(tables, rows, torch.split(ids, lengths), strict=True)]
        if len(set(lengths)) == 1:  # one call for all
            of_all = host.ints(tables)[:, None], host.ints(rows)[:, None]
            places = [(*of_all, ids.view(len(lengths), -1))]
        for table, vocabulary, part in places:
            device, row = placement.locate(table, vocabulary, part)
            torch.add(row, device, alpha=stack.num_records + 1, out=part)
    shifts, addresses = np.array([first[table] for table in tables]), ids.numpy()
    if len(set(lengths)) == 1:
        by_span = addresses.reshape(len(lengths), -1)
        by_span += shifts[:, None]
    else:
        addresses += np.repeat(shifts, lengths)


def _request_all(
    order: StackOrder,
    bags: Sequence[Bags],
    address: Tensor,
    lengths: list[int],
    no_id: int,
    stride: int,
    devices: int,
) -> Request:
    """A request with one record for each occurrence, by owner, then by feature and sample."""
    due = batch_order(order, bags)
    numbers = [span.feature_index for span in order.spans]
    feature = torch.tensor(numbers, dtype=torch.int32, device="cpu").repeat_interleave(
        host.ints(lengths)
    )
    due = due[address[due] != no_id]
    owner = address[due] // stride
    by_owner = torch.argsort(owner, stable=True)
    due, owner = due[by_owner], owner[by_owner]
    inverse = torch.full((len(address),), len(due), dtype=torch.int64, device="cpu")
    inverse[due] = host.arange(len(due))
    records = (address[due] - owner * stride).to(torch.int32)
    return Request(records, torch.bincount(owner, minlength=devices), inverse, feature[due])


def batch_order(order: StackOrder, bags: Sequence[Bags]) -> Tensor:
    """The numbers of a batch's lookups, which lie span after span, in feature order `[N]`."""
    lengths = [len(bags[span.feature_index].ids) for span in order.spans]
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    numbers = sorted(range(len(lengths)), key=lambda number: order.spans[number].feature_index)
    return torch.cat([host.arange(ends[n] - lengths[n], ends[n]) for n in numbers])


def send_requests(
    requests: list[list[Request]], counts: Tensor, group: HostGroup, local_devices: int
) -> list[list[IncomingRequest]]:
    """Send the requests of this process to the owners of the records; a collective call.

    One table of lengths, by (asking process, stack, asking device, kind, asked process, asked device), says
    how every message is put together; kind 0 are the records of a request, kind 1 its features, if it has
    them.

    Args:
        requests: per stack, one for each device of this process.
        counts: `[S, stacks, P, G]`: the records that each device of each process asks each device for.

    Returns:
        Per stack the incoming request of each device of this process.
    """
    kinds = host.ints([[1, of_stack[0].features is not None] for of_stack in requests])
    shape = group.size, len(requests), local_devices, 1, group.size, local_devices
    table = counts.view(shape) * kinds.view(1, -1, 1, 2, 1, 1)

    leaving = table[group.rank]  # by stack, asking device, kind, asked process, asked device
    fields = [
        field
        for of_stack in requests
        for request in of_stack
        for field in (request.records, request.features)
        if field is not None
    ]
    by_process = _rearrange(torch.cat(fields), leaving, (3, 0, 1, 2, 4))
    messages = torch.split(by_process, leaving.sum((0, 1, 2, 4)).tolist())

    coming = table[
        ..., group.rank, :
    ]  # by asking process, stack, asking device, kind, asked device
    received = group.all_to_all([*messages], coming.sum((1, 2, 3, 4)).tolist())
    by_device = _rearrange(torch.cat(received), coming, (1, 4, 3, 0, 2))
    parts = iter(torch.split(by_device, coming.sum((0, 2)).transpose(1, 2).flatten().tolist()))

    lengths = coming[:, :, :, 0].permute(1, 3, 0, 2).flatten(2).tolist()  # [stacks, P, G asking]
    incoming = []
    for number, of_stack in enumerate(requests):
        has_features = of_stack[0].features is not None
        pairs = [(next(parts), next(parts)) for _ in of_stack]
        incoming.append(
            [
                IncomingRequest(
                    records, lengths[number][device], features if has_features else None
                )
                for device, (records, features) in enumerate(pairs)
            ]
        )
    return incoming


def _rearrange(values: Tensor, lengths: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Permute the pieces of which `values` consists.

    Args:
        lengths: the length of each piece, in as many dimensions as the pieces are counted by; the pieces
            lie in `values` in the order of the flattened dimensions.
        axes: the order of these dimensions in the result.
    """
    end = lengths.flatten().cumsum(0).view_as(lengths)
    starts = (end - lengths).permute(axes).flatten().tolist()
    ends = end.permute(axes).flatten().tolist()
    array = values.numpy()  # whose slices cost a tenth of torch's
    pieces = [array[start:end] for start, end in zip(starts, ends, strict=True)]
    return torch.from_numpy(np.concatenate(pieces))

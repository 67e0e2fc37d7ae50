"""Requests: the records that each device wants of each other device, sent to their owners.

Letters: N lookups, U unique rows, S processes, P devices of a process, G devices of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.resolved import Resolved
from ..distributed.group import HostGroup
from ..distributed.placement import Placement
from ..inputs.at_once.bags import OneIdBags
from ..inputs.bags import NO_ID, Bags
from ..runtime import host
from ..runtime.slices import join
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
        """The position in the exchange buffer of each lookup `[N]` int32; the last one is padding.

        Args:
            per_device: positions in the exchange buffer for each device.
        """
        positions = np.empty(len(self.records) + 1, dtype=np.int32)
        positions[:-1] = exchange_positions(self.counts.numpy(), per_device)
        positions[-1] = len(self.counts) * per_device - 1
        return torch.from_numpy(positions.take(self.inverse.numpy(), mode="clip"))


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


def exchange_positions(counts: NDArray[np.int64], per_device: int) -> NDArray[np.int32]:
    """The position in an exchange buffer of each record, those of one device after another.

    Args:
        counts: `[G]`, the number of records of each device.
        per_device: positions in the exchange buffer for each device.
    """
    starts = np.cumsum(counts) - counts
    shifts = np.arange(counts.size) * per_device - starts
    positions = np.arange(counts.sum(), dtype=np.int32)
    positions += np.repeat(shifts.astype(np.int32), counts)
    return positions


def unique_records(stack: StackLayout, incoming: IncomingRequest, ranks: Ranks) -> UniqueRecords:
    """Deduplicate the records that all devices ask one device for."""
    bound = stack.num_records + 1
    records, of_incoming = unique_by(ranks, incoming.records.long(), bound)
    return UniqueRecords(records.to(torch.int32), of_incoming)


def make_requests(
    resolved: Resolved,
    order: StackOrder,
    parts: Sequence[Sequence[Bags]],
    placement: Placement,
    ranks: Ranks | None = None,
) -> list[Request]:
    """Deduplicate the ids of each device of this process in one stack, and find their owners.

    An optimizer that steps once per occurrence needs the gradient of each: on several devices its ids
    are not deduplicated before they are sent, but ordered by feature and sample.

    Args:
        parts: the bags of each device, in feature order.
        ranks: used if they can hold the stack's records; None for the slower reference.
    """
    given = [_ids_of(order, bags) for bags in parts]
    lengths = [length for of_one in given for length in of_one.lengths]
    pieces = [piece for of_one in given for piece in of_one.pieces]
    ids = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    addresses = _addresses(resolved, order, ids, lengths, placement)
    # the padding record of the last device: greater than all others
    no_id = placement.num_devices * (order.stack.num_records + 1) - 1
    if any(of_one.has_gaps for of_one in given):
        np.copyto(addresses, no_id, where=ids == NO_ID)
    found, end = [], 0
    for bags, of_one in zip(parts, given, strict=True):
        start, end = end, end + sum(of_one.lengths)
        own = torch.from_numpy(addresses[start:end])
        found.append(_request(resolved, order, bags, of_one, own, no_id, placement, ranks))
    return found


def _request(
    resolved: Resolved,
    order: StackOrder,
    bags: Sequence[Bags],
    ids: _Ids,
    addresses: Tensor,
    no_id: int,
    placement: Placement,
    ranks: Ranks | None,
) -> Request:
    """The request of one device.

    Args:
        addresses: of its ids `[N]`; overwritten.
        no_id: the address of what is not looked up.
    """
    devices, stride = placement.num_devices, order.stack.num_records + 1
    if devices > 1 and order.stack.steps_per_occurrence:
        return _request_all(order, bags, addresses, ids.lengths, no_id, stride, devices)
    runs = _runs(resolved, order, ids.lengths) if devices == 1 and not ids.has_gaps else []
    distinct, inverse = unique_by(ranks, addresses, devices * stride, runs)
    unique = distinct.numpy()
    if unique.size and unique[-1] == no_id:
        unique = unique[:-1]
    counts = np.array([unique.size])
    if devices > 1:
        starts = np.arange(devices + 1, dtype=unique.dtype) * unique.dtype.type(stride)
        ends = np.searchsorted(unique, starts)
        counts = ends[1:] - ends[:-1]
        unique = unique - np.repeat(starts[:-1], counts)
    records = torch.from_numpy(unique.astype(np.int32, copy=False))
    return Request(records, torch.from_numpy(counts), inverse)


@dataclass(frozen=True)
class _Ids:
    """The ids of one device's lookups in a stack."""

    pieces: list[NDArray[np.int64]]
    """All of them, in several arrays."""
    lengths: list[int]
    """The number of ids of each span."""
    has_gaps: bool
    """True if positions without an id may be among them."""


def _ids_of(order: StackOrder, bags: Sequence[Bags]) -> _Ids:
    if isinstance(bags, OneIdBags):
        numbers = [span.feature_index for span in order.spans]
        ids = bags.ids.numpy()
        ids = ids if len(numbers) == len(bags) else ids[numbers]
        return _Ids([ids.reshape(-1)], [bags.size] * len(numbers), False)
    parts = [bags[span.feature_index] for span in order.spans]
    has_gaps = any(part.bag is None and part.num_ids < part.ids.numel() for part in parts)
    return _Ids([part.ids.numpy() for part in parts], [p.ids.numel() for p in parts], has_gaps)


def _runs(resolved: Resolved, order: StackOrder, lengths: list[int]) -> list[list[slice]]:
    """The lookups of each table of a stack, in the order of the tables' records."""
    found: dict[int, list[slice]] = {table: [] for table in order.stack.table_indices}
    end = 0
    for span, length in zip(order.spans, lengths, strict=True):
        start, end = end, end + length
        found[resolved.features[span.feature_index].table_index].append(slice(start, end))
    runs = [[part for part in parts if part.start < part.stop] for parts in found.values()]
    return [run for run in runs if run]


def _addresses(
    resolved: Resolved,
    order: StackOrder,
    ids: NDArray[np.int64],
    lengths: list[int],
    placement: Placement,
) -> NDArray[np.int64]:
    """The address of each id, device · stride + record, in memory of its own.

    Args:
        ids: of one device or several.
        lengths: the number of ids of each span, device after device.
    """
    stack, are_equal = order.stack, len(set(lengths)) == 1

    def of_ids(values: list[int]) -> NDArray[np.int64]:
        of_spans = np.array(values * (len(lengths) // len(values)))
        return of_spans[:, None] if are_equal else np.repeat(of_spans, lengths)

    first = dict(zip(stack.table_indices, stack.first_records, strict=True))
    tables = [resolved.features[span.feature_index].table_index for span in order.spans]
    shifts = of_ids([first[table] for table in tables])
    given = ids.reshape(len(lengths), lengths[0]) if are_equal else ids
    if placement.num_devices == 1:
        return (given + shifts).reshape(-1)
    rows = of_ids([resolved.tables[table].vocabulary_size for table in tables])
    places = map(torch.from_numpy, (of_ids(tables), rows, given))
    device, row = (each.numpy() for each in placement.locate(*places))
    device *= stack.num_records + 1
    device += row
    device += shifts
    return device.reshape(-1)


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
    by_process = _rearrange(join(fields), leaving, (3, 0, 1, 2, 4))
    messages = torch.split(by_process, leaving.sum((0, 1, 2, 4)).tolist())

    coming = table[
        ..., group.rank, :
    ]  # by asking process, stack, asking device, kind, asked device
    received = group.all_to_all([*messages], coming.sum((1, 2, 3, 4)).tolist())
    by_device = _rearrange(join(received), coming, (1, 4, 3, 0, 2))
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
    moved = [axis for axis in axes if lengths.shape[axis] > 1]
    if moved == sorted(moved):
        return values  # they lie in that order already
    end = lengths.flatten().cumsum(0).view_as(lengths)
    starts = (end - lengths).permute(axes).flatten().tolist()
    ends = end.permute(axes).flatten().tolist()
    array = values.numpy()  # whose slices cost a tenth of torch's
    pieces = [array[start:end] for start, end in zip(starts, ends, strict=True)]
    return torch.from_numpy(np.concatenate(pieces))

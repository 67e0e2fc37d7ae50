"""The int32 and float32 numbers that one batch sends to one device, in the order of `buffer_parts.py`.

Letters: H ids of a bag of fixed length, N lookups, U unique rows, G devices of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..inputs.bags import Bags
from ..runtime.phases import timed
from ..runtime.slices import join
from .buffer_parts import FloatParts, IntParts
from .program_shape import FeatureSpan, StackOrder, StackShape
from .requests import IncomingRequest, Request, UniqueRecords, exchange_positions

_Array = NDArray[Any]


@timed("buffers")
def write_buffers(
    shapes: tuple[StackShape, ...],
    requests: list[list[Request]],
    incoming: list[list[IncomingRequest]],
    records: list[list[UniqueRecords]],
    parts: Sequence[Sequence[Bags]],
) -> tuple[Tensor, Tensor]:
    """The int32 and the float32 buffer of a batch, the parts of the devices of this process one after
    another.

    Args:
        requests, incoming, records: per stack, one for each device; nothing comes in on a single device.
        parts: the bags of each device, in feature order.
    """
    ints, floats = [], []
    for device, part in enumerate(parts):
        for n, shape in enumerate(shapes):
            comes = incoming[n][device] if incoming else None
            ints.append(int_buffer(shape, requests[n][device], comes, records[n][device], part))
            floats.append(float_buffer(shape, part))
    return join(ints), join(floats)


def int_buffer(
    shape: StackShape,
    request: Request,
    incoming: IncomingRequest | None,
    unique_records: UniqueRecords,
    bags: Sequence[Bags],
) -> Tensor:
    """The int32 part of one stack; `IntParts` names its pieces."""
    order, stack, unique = shape.order, shape.order.stack, unique_records.records.numpy()
    ints = np.empty(sum(shape.int_lengths), dtype=np.int32)
    parts = IntParts(*_split(ints, shape.int_lengths))
    parts.record[: unique.size] = unique
    parts.record[unique.size :] = stack.padding_record
    if shape.has_several_tables:
        firsts = (*stack.first_records, stack.num_records + 1)
        ends = np.searchsorted(unique, np.array(firsts, dtype=np.int32))
        counts = ends[1:] - ends[:-1]
        parts.table[: unique.size] = np.repeat(np.arange(counts.size, dtype=np.int32), counts)
        parts.table[unique.size :] = 0
    to_rows = request.inverse
    if incoming is not None:
        parts.incoming[:] = incoming_positions(shape, incoming, unique_records)
        to_rows = request.positions(shape.positions_per_device)
    rows = to_rows.numpy()
    parts.to_one_hot[:] = rows[: order.num_one_hot]
    values = {
        each.feature_index: rows[order.num_one_hot + each.first :] for each in order.fixed_length
    }
    fill_fixed_length(order, parts.to_fixed_length, values)
    ragged = rows[order.num_one_hot + order.num_fixed_length :]
    parts.to_ragged[: ragged.size] = ragged
    parts.to_ragged[ragged.size :] = (shape.num_positions or shape.num_unique) - 1
    at = 0
    for span in order.ragged:
        of_id = bags[span.feature_index].bag
        assert of_id is not None
        end = at + of_id.numel()
        parts.bag[at:end] = of_id.numpy()
        parts.bag[at:end] += span.first
        at = end
    parts.bag[at:] = max(order.num_bags - 1, 0)
    return torch.from_numpy(ints)


def float_buffer(shape: StackShape, bags: Sequence[Bags]) -> Tensor:
    """The gains of one stack; `FloatParts` names its pieces."""
    gains = np.empty(sum(shape.float_lengths), dtype=np.float32)
    parts = FloatParts(*_split(gains, shape.float_lengths))
    fill_fixed_length(
        shape.order,
        parts.fixed_length_gain,
        {s.feature_index: _gain(bags, s) for s in shape.order.fixed_length},
    )
    at = 0
    for span in shape.order.ragged:
        gain = _gain(bags, span)
        parts.ragged_gain[at : at + gain.size] = gain
        at += gain.size
    parts.ragged_gain[at:] = 0
    return torch.from_numpy(gains)


def incoming_positions(
    shape: StackShape, incoming: IncomingRequest, unique_records: UniqueRecords
) -> Tensor:
    """The unique record in each position of the exchange buffer that leaves this device.

    Returns:
        `[G · positions_per_device]` int32; U - 1, the padding record, in positions that nobody asked for.
    """
    size, counts = shape.num_devices * shape.positions_per_device, np.array(incoming.lengths)
    found = np.full(size, shape.num_unique - 1, dtype=np.int32)
    found[exchange_positions(counts, shape.positions_per_device)] = unique_records.of_incoming
    return torch.from_numpy(found)


def fill_fixed_length(order: StackOrder, buffer: _Array, values: Mapping[int, _Array]) -> None:
    """Write values that lie bag after bag as `[H, bags]` for each group of fused lookups.

    The device sums over the first of these dimensions.

    Args:
        values: feature index → the values of its lookups, with or without others behind them.
    """
    at = 0
    for fused in order.fused_fixed_length:
        length, end = fused[0].form.length, at + sum(span.num_lookups for span in fused)
        by_position, bag = buffer[at:end].reshape(length, -1), 0
        for span in fused:
            by_bag = values[span.feature_index][: span.num_lookups]
            by_position[:, bag : bag + span.count] = by_bag.reshape(-1, length).T
            bag += span.count
        at = end


def _gain(bags: Sequence[Bags], span: FeatureSpan) -> _Array:
    gain = bags[span.feature_index].gain
    assert gain is not None
    return gain.numpy()


def _split(array: _Array, lengths: tuple[int, ...]) -> Iterator[_Array]:
    ends = [*accumulate(lengths)]
    return map(array.__getitem__, map(slice, [0, *ends[:-1]], ends))

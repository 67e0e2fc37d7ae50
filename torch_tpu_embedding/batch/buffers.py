"""The int32 and float32 numbers that one batch sends to one device, in the order of `buffer_parts.py`.

Letters: H length of a bag, N ids, U unique rows, G devices of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..inputs.bags import Bags
from ..runtime import host
from .buffer_parts import FloatParts, IntParts
from .program_shape import FeatureSpan, StackOrder, StackShape
from .requests import IncomingRequest, Request, UniqueRecords

_Array = NDArray[Any]


def int_buffer(
    sizes: StackShape,
    request: Request,
    served: IncomingRequest | None,
    owned: UniqueRecords,
    bags: list[Bags],
) -> Tensor:
    """The int32 part of one stack; `IntParts` names its pieces."""
    plan, stack, unique = sizes.order, sizes.order.stack, owned.records.numpy()
    ints = np.empty(sum(sizes.int_lengths), dtype=np.int32)
    parts = IntParts(*_cut(ints, sizes.int_lengths))
    parts.record[: unique.size] = unique
    parts.record[unique.size :] = stack.padding_record
    if sizes.has_several_tables:
        firsts = np.searchsorted(unique, np.array(stack.first_records, dtype=np.int32))
        counts = np.diff(firsts, append=unique.size)
        parts.table[: unique.size] = np.repeat(np.arange(counts.size, dtype=np.int32), counts)
        parts.table[unique.size :] = 0
    places = request.inverse
    if served is not None:
        parts.incoming[:] = incoming_positions(sizes, served, owned)
        places = request.slots(sizes.positions_per_device)
    rows = places.numpy()
    parts.to_one_hot[:] = rows[: plan.num_one_hot]
    values = {
        each.feature_index: rows[plan.num_one_hot + each.first :] for each in plan.fixed_length
    }
    _fill_fixed_length(plan, parts.to_fixed_length, values)
    ragged = rows[plan.num_one_hot + plan.num_fixed_length :]
    parts.to_ragged[: ragged.size] = ragged
    parts.to_ragged[ragged.size :] = (sizes.num_positions or sizes.num_unique) - 1
    at = 0
    for span in plan.ragged:
        of_id = bags[span.feature_index].bag
        assert of_id is not None
        end = at + of_id.numel()
        parts.bag[at:end] = of_id.numpy()
        parts.bag[at:end] += span.first
        at = end
    parts.bag[at:] = max(plan.num_bags - 1, 0)
    return torch.from_numpy(ints)


def float_buffer(sizes: StackShape, bags: list[Bags]) -> Tensor:
    """The gains of one stack; `FloatParts` names its pieces."""
    gains = np.empty(sum(sizes.float_lengths), dtype=np.float32)
    parts = FloatParts(*_cut(gains, sizes.float_lengths))
    _fill_fixed_length(
        sizes.order,
        parts.fixed_length_gain,
        {s.feature_index: _gain(bags, s) for s in sizes.order.fixed_length},
    )
    at = 0
    for span in sizes.order.ragged:
        gain = _gain(bags, span)
        parts.ragged_gain[at : at + gain.size] = gain
        at += gain.size
    parts.ragged_gain[at:] = 0
    return torch.from_numpy(gains)


def incoming_positions(sizes: StackShape, served: IncomingRequest, owned: UniqueRecords) -> Tensor:
    """`[G · block]` int32: which of the unique records lies in each slot; U - 1, padding, in the others."""
    slots = torch.full(
        (sizes.num_devices, sizes.positions_per_device),
        sizes.num_unique - 1,
        dtype=torch.int32,
        device="cpu",
    )
    slots[host.arange(sizes.positions_per_device) < host.ints(served.lengths)[:, None]] = (
        owned.of_incoming
    )
    return slots.view(-1)


def _fill_fixed_length(plan: StackOrder, buffer: _Array, values: Mapping[int, _Array]) -> None:
    """From bag after bag, as ids are given, to `[H, bags]` for each run, as the device adds them up.

    Args:
        values: feature index → values of its places, and maybe more.
    """
    at = 0
    for run in plan.fused_fixed_length:
        length, end = run[0].form.length, at + sum(span.num_lookups for span in run)
        of_run, bag = buffer[at:end].reshape(length, -1), 0
        for span in run:
            of_segment = values[span.feature_index][: span.num_lookups]
            of_run[:, bag : bag + span.count] = of_segment.reshape(-1, length).T
            bag += span.count
        at = end


def _gain(bags: list[Bags], span: FeatureSpan) -> _Array:
    gain = bags[span.feature_index].gain
    assert gain is not None
    return gain.numpy()


def _cut(array: _Array, lengths: tuple[int, ...]) -> Iterator[_Array]:
    ends = [*accumulate(lengths)]
    return map(array.__getitem__, map(slice, [0, *ends[:-1]], ends))

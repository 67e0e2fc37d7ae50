"""Bytes that a step sends between devices, counted on the host from its ids: no device is needed.

Rows go from owners to the devices that asked, gradients the same way back, in exchange buffers, padded to
one size for each pair of devices. Letters: B batch, D dim, G devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch_tpu_embedding.batch.program_shape import StackShape, form_of, order_stacks
from torch_tpu_embedding.batch.requests import make_requests
from torch_tpu_embedding.config.resolved import Resolved
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.inputs.bags import Bags, split_bags

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Traffic:
    """Bytes that a device sends to others in a training step, rows and gradients together."""

    needed: float
    """Bytes of the rows that are asked for, on average over the devices of this process."""
    sent: int
    """Bytes of the padded exchange buffer, except a device's part for itself; the same on every device."""
    asked: float
    """Unique rows that a device asks for, its own included, on average."""

    @property
    def padding(self) -> float:
        """The share of padding in the bytes sent."""
        return 1 - self.needed / self.sent if self.sent else 0.0


def count_traffic(
    resolved: Resolved, placement: Placement, shapes: tuple[StackShape, ...], bags: list[Bags]
) -> Traffic:
    """Count one batch.

    Args:
        shapes: the program shape of the batch, one for each stack.
        bags: the batch of this process, as the batcher was given it.
    """
    local, devices = placement.local_devices, placement.num_devices
    parts = split_bags(resolved.features, bags, local)
    stacks = tuple(each.order.stack for each in shapes)
    needed = asked = 0.0
    for order in order_stacks(resolved, stacks, tuple(map(form_of, parts[0]))):
        for device, request in enumerate(make_requests(resolved, order, parts, placement)):
            own = int(request.counts[placement.rank * local + device])
            asked += int(request.counts.sum()) / local
            needed += (int(request.counts.sum()) - own) * order.stack.dim * FLOAT * 2 / local
    return Traffic(needed, sum(bytes_sent(each, devices) for each in shapes), asked)


def bytes_sent(shape: StackShape, devices: int) -> int:
    """Bytes that a device sends to the others for one stack, rows and gradients together."""
    return 2 * (devices - 1) * shape.positions_per_device * shape.order.stack.dim * FLOAT


def as_json(traffic: Traffic) -> dict[str, Any]:
    """The counts as a report has them."""
    return {
        "bytes_needed": round(traffic.needed),
        "bytes_sent": traffic.sent,
        "rows_asked": round(traffic.asked),
        "padding": round(traffic.padding, 4),
    }

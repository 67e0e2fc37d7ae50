"""Several devices of one program: tensors split over them, and the exchange between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import require_backend
from .device import as_typed, bindings, device, send, sync, wait_for_device


class Mesh:
    """All devices of all processes in a row, and tensors split over them along a dimension.

    torch_xla's own functions for this try to import jax at every call; the bindings below them do not
    (6 against 310 µs), and give plain tensors.

    Args:
        device_ids: of all devices, those of process 0 first, in the order of `local_device_ids`.
    """

    def __init__(self, device_ids: Sequence[int]) -> None:
        require_backend()
        import numpy as np
        import torch_xla.distributed.spmd as xs

        self.num_devices = len(device_ids)
        self._mesh = xs.Mesh(np.array(device_ids), (self.num_devices,), ("x",))
        self._manual = bindings().OpSharding([], [], [], xs.ShardingType.MANUAL)

    def put(self, value: Tensor) -> Tensor:
        """Copy a host tensor to this process's devices, split along its first dimension.

        Args:
            value: its first size must be divisible by the number of those devices.

        Returns:
            A tensor that has the first size of all processes together.
        """
        import torch_xla.distributed.spmd as xs

        if self.num_devices == 1:
            return value.to(device())
        names = ("x", *[None] * (value.dim() - 1))
        spec = xs.ShardingSpec(self._mesh, names, minibatch=True).xla_spec(value)
        return send(value, str(device()), spec)

    def zeros(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros on every device, in a tensor split along the first dimension.

        Args:
            shape: of one device's part.
            dtype: of the numbers.
        """
        size = (shape[0] * self.num_devices, *shape[1:])
        return self.split(torch.zeros(size, device=device(), dtype=dtype), 0)

    def fetch(self, value: Tensor) -> Tensor:
        """This process's part of a tensor, split along its first dimension, on the host.

        Args:
            value: a device tensor of all processes; this ends the step.

        Raises:
            ValueError: several processes cannot share it evenly.
        """
        size = value.shape[0]
        value = self.split(value, 0)
        sync(wait=True)
        shards = bindings()._get_local_shards([value])[0]
        if len(shards) == self.num_devices:
            return torch.cat([data.cpu() for data, _ in shards])[
                :size
            ]  # the last ones may be filled up
        if size % self.num_devices:
            raise ValueError(
                f"to_host: a tensor of shape {[*value.shape]} cannot be shared by {self.num_devices} "
                "devices of several processes; make its first size a multiple of that"
            )
        return torch.cat([data.cpu() for data, _ in shards])

    def split(self, value: Tensor, dim: int | None) -> Tensor:
        """A tensor laid out over the devices along a dimension, or whole on each device.

        Args:
            value: a device tensor.
            dim: the dimension, or None for whole.
        """
        out = value + 0  # a node of its own: marking changes the tensor it is given
        bindings()._xla_mark_sharding(out, self._sharding(value.dim(), dim))
        return out

    def enter(self, value: Tensor) -> Tensor:
        """One device's part of a tensor that is split along its first dimension.

        Args:
            value: of all devices; its first size is a multiple of their number.
        """
        sharding = self._sharding(value.dim(), 0)
        try:
            bindings()._xla_mark_sharding(value, sharding)
        except RuntimeError as error:
            if "does not present on any device" not in str(error):
                raise
            wait_for_device()  # a result of the program that was started just now has no memory yet
            bindings()._xla_mark_sharding(value, sharding)
        return as_typed(bindings()._spmd_full_to_shard_shape(value))

    def leave(self, value: Tensor) -> Tensor:
        """The tensor of which each device has a part, along the first dimension.

        Args:
            value: one device's part.
        """
        known = bindings()
        known._mark_manual_sharding(value, self._manual)
        shape = torch.Size([value.shape[0] * self.num_devices, *value.shape[1:]])
        sharding = self._sharding(value.dim(), 0)
        return as_typed(known._spmd_shard_to_full_shape(value, sharding, shape, value.dtype))

    def all_to_all(self, blocks: Tensor) -> Tensor:
        """Exchange blocks of one device with the others, by a change of their layout.

        Args:
            blocks: `[devices, …]`; block k goes to device k.

        Returns:
            `[devices, …]`; block k came from device k.
        """
        whole = self.leave(blocks[None])  # [from, to, …], split along `from`
        swapped = self.split(whole, 1).transpose(0, 1)
        return self.enter(self.split(swapped, 0))[0]

    def _sharding(self, rank: int, dim: int | None) -> Any:
        return self._mesh.get_op_sharding(tuple("x" if at == dim else None for at in range(rank)))

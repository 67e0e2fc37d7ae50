"""The exchange of rows and gradients between the devices that look rows up and the devices that own them.

Both travel in exchange buffers `[G, positions, D]`: part d of a buffer goes to device d, and part d of the
buffer that arrives comes from device d. The code before and after works on one device's part of everything:

* `Local`: one device, nothing travels.
* `Spmd`: one program over all devices of all processes (torch_xla's SPMD mode), which XLA partitions.
  `enter` gives the part of one device, as a tensor in which the program is written; `leave` the whole.
* `Process`: one process per device. On TPU the all-to-all is part of the program; on CPU, where processes
  cannot share a program, it runs on the host between two programs.

Letters: S processes, P devices of a process, G devices of all, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from .. import runtime
from ..io.warn import warn_caller
from .calls import calling
from .group import Alone, HostGroup, host_group


class Exchange(Protocol):
    """The device side of S processes."""

    name: str
    group: HostGroup
    local_devices: int
    """P, the number of devices of this process."""
    ends_before_cut: bool
    """True if rows are exchanged in the program, which must end before operators that differ between
    processes."""

    def put(self, value: Tensor) -> Tensor:
        """Copy a host tensor to the device: the parts of this process's P devices, one after another."""

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros of this shape on each device of this process, as `put` would copy them, made without the
        host."""

    def fetch(self, value: Tensor) -> Tensor:
        """Copy this process's part of a device tensor to the host: the parts of its P devices, one after
        another."""

    def enter(self, value: Tensor) -> Tensor:
        """One device's part of a tensor that is split along its first dimension."""

    def leave(self, value: Tensor) -> Tensor:
        """The tensor of which `value` is one device's part."""

    def store(self, array: Tensor, part: Tensor) -> None:
        """End an update in place: `part` is the new value of `enter(array)`, or that, changed in place."""

    def all_to_all(self, buffers: Sequence[Tensor]) -> list[Tensor]:
        """Exchange several buffers `[G, positions, D]` of one device with all others."""

    def gather(self, values: Tensor) -> Tensor:
        """A few numbers `[n]` of each device → the numbers of all, `[G, n]`, the same everywhere; on the
        host if they travel there."""


class Local:
    """One process with one device."""

    name = "Local"
    local_devices = 1
    ends_before_cut = False

    def __init__(self, device: torch.device) -> None:
        self.group: HostGroup = Alone()
        self._device = device

    def put(self, value: Tensor) -> Tensor:
        return runtime.upload(value, self._device)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, device=self._device, dtype=dtype)

    def fetch(self, value: Tensor) -> Tensor:
        return value.cpu()

    def enter(self, value: Tensor) -> Tensor:
        return value

    def leave(self, value: Tensor) -> Tensor:
        return value

    def store(self, array: Tensor, part: Tensor) -> None:
        if part is not array:
            array.copy_(part)

    def all_to_all(self, buffers: Sequence[Tensor]) -> list[Tensor]:
        return [*buffers]

    def gather(self, values: Tensor) -> Tensor:
        return values[None]


class Process(Local):
    """One process for each device."""

    def __init__(self, device: torch.device, group: HostGroup, in_program: bool) -> None:
        super().__init__(device)
        self.group = group
        self._in_program = self.ends_before_cut = in_program
        way = "in the program" if in_program else "on the host"
        self.name = f"Process (all-to-all {way})"

    def all_to_all(self, buffers: Sequence[Tensor]) -> list[Tensor]:
        if self._in_program:
            return [runtime.all_to_all(buffer, self.group.size) for buffer in buffers]
        if runtime.is_accelerated(self._device):
            # Everything traced so far runs here, once. A fetch alone would run what the buffers need and
            # leave the rest to run again at the end of the step.
            runtime.sync()
        on_host = [buffer.cpu() for buffer in buffers]
        pieces = [
            torch.cat([buffer[peer].reshape(-1) for buffer in on_host])
            for peer in range(self.group.size)
        ]
        received = self.group.all_to_all(pieces, [len(piece) for piece in pieces])
        sizes = [buffer[0].numel() for buffer in on_host]
        parts = [torch.split(piece, sizes) for piece in received]
        return [
            torch.stack([part[number] for part in parts]).view(buffer.shape).to(self._device)
            for number, buffer in enumerate(on_host)
        ]

    def gather(self, values: Tensor) -> Tensor:
        if self._in_program:
            copies = values.expand(self.group.size, -1) + 0
            return runtime.all_to_all(copies, self.group.size)
        if runtime.is_accelerated(self._device):
            runtime.sync()
        return self.group.gather(values.cpu())


class Spmd:
    """One program over the devices of all processes."""

    ends_before_cut = False

    def __init__(self, mesh: runtime.Mesh, group: HostGroup) -> None:
        self.group = group
        self.local_devices = mesh.num_devices // group.size
        self.name = f"Spmd ({mesh.num_devices} devices, {self.local_devices} in this process)"
        self._mesh = mesh

    def put(self, value: Tensor) -> Tensor:
        return self._mesh.put(value)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._mesh.zeros(shape, dtype)

    def fetch(self, value: Tensor) -> Tensor:
        return self._mesh.fetch(value)

    def enter(self, value: Tensor) -> Tensor:
        return self._mesh.enter(value)

    def leave(self, value: Tensor) -> Tensor:
        return self._mesh.leave(value)

    def store(self, array: Tensor, part: Tensor) -> None:
        array.copy_(self._mesh.leave(part))

    def all_to_all(self, buffers: Sequence[Tensor]) -> list[Tensor]:
        return [self._mesh.all_to_all(buffer) for buffer in buffers]

    def gather(self, values: Tensor) -> Tensor:
        return self._mesh.leave(values[None])


def choose_exchange(device: torch.device, process_group: dist.ProcessGroup | None) -> Exchange:
    """The way that fits how this process was started; a collective call.

    Args:
        process_group: of the processes that share the tables, able to work on host tensors (gloo); None
            for all that torchrun started.

    Raises:
        RuntimeError: there are other processes, but no connection to them.
    """
    group = host_group(process_group)
    with calling("TPUEmbedding()"):
        numbers = _all_devices(group)
    if runtime.is_spmd():
        return Spmd(runtime.Mesh(numbers), group) if len(numbers) > 1 else Local(device)
    if group.size == 1:
        return Local(device)
    return Process(device, group, in_program=runtime.device_kind() == "TPU")


def warn_of_idle_devices() -> None:
    """Warn if this process sees devices that it does not use."""
    idle = 0 if runtime.is_spmd() else len(runtime.local_device_ids()) - 1
    if idle and not runtime.one_device_is_enough():
        use_all = (
            "call torch_tpu_embedding.distributed.initialize() before anything else, which has one program "
            "use all of them"
            if runtime.backend() == "torch_xla"
            else "start one process for each with torchrun --nproc_per_node"
        )
        warn_caller(
            f"TPUEmbedding: {idle} of the {idle + 1} devices that this process sees stay idle; {use_all}, "
            "or initialize(spmd=False) if one is meant"
        )


def _all_devices(group: HostGroup) -> list[int]:
    """The numbers of the devices of all processes.

    Raises:
        ValueError: the processes drive their devices in different ways.
    """
    told = group.gather_objects(
        (runtime.device_kind(), runtime.is_spmd(), runtime.local_device_ids())
    )
    ways = [(kind, spmd, len(numbers) if spmd else 1) for kind, spmd, numbers in told]
    for rank, way in enumerate(ways):
        if way != ways[0]:
            raise ValueError(
                "TPUEmbedding: (kind of device, SPMD, devices that the process uses) is "
                f"{ways[0]} on process 0 and {way} on process {rank}; start all processes with the same "
                "environment and the same distributed.initialize(…)"
            )
    return [number for _, _, numbers in told for number in numbers]

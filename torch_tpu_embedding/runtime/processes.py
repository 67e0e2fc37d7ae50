"""This process among the others: how they were started, and how it drives its devices."""

from __future__ import annotations

import os

from .xla import require_torch_xla


def platform() -> str:
    """The platform that `PJRT_DEVICE` names, without starting it."""
    return os.environ.get("PJRT_DEVICE", "").upper()


def num_processes() -> int:
    """The number of processes that torchrun started (`WORLD_SIZE`); 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def init_process_group() -> None:
    """Connect the processes of a TPU that has one for each chip, through torch_xla's own backend."""
    require_torch_xla()
    import torch.distributed as dist
    import torch_xla.distributed.xla_backend  # noqa: F401 (registers it)

    dist.init_process_group("xla", init_method="xla://")


def use_spmd() -> None:
    """From now on one process drives all its devices with partitioned programs. Before any tensor."""
    require_torch_xla()
    import torch_xla.runtime as xr

    xr.use_spmd()


def use_one_device() -> None:
    """This process shall use one device, whatever it sees."""
    _one_device.append(True)


def one_device_is_enough() -> bool:
    """True once `use_one_device` was called."""
    return bool(_one_device)


_one_device: list[bool] = []


def is_spmd() -> bool:
    """True once `use_spmd` was called."""
    require_torch_xla()
    import torch_xla.runtime as xr

    return bool(xr.is_spmd())

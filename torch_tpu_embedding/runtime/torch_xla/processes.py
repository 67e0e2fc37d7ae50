"""How torch_xla connects the processes, and lets one of them drive several devices."""

from __future__ import annotations

import os

from ..backends import require_backend


def platform() -> str:
    """The platform that `PJRT_DEVICE` names, without starting it."""
    return os.environ.get("PJRT_DEVICE", "").upper()


def init_process_group() -> None:
    """Connect the processes of a TPU that has one for each chip, through torch_xla's own backend."""
    require_backend()
    import torch.distributed as dist
    import torch_xla.distributed.xla_backend  # noqa: F401 (registers it)

    dist.init_process_group("xla", init_method="xla://")


def end_without_waiting() -> None:
    """Nothing to do: a process that ends waits for no other under torch_xla."""


def default_spmd() -> bool:
    """True if one process shall drive several devices where the user has not decided: on a TPU with one
    process per host, and on CPU where `CPU_NUM_DEVICES` asks for several devices."""
    if platform() == "TPU":
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1
    return int(os.environ.get("CPU_NUM_DEVICES", "1")) > 1


def use_spmd() -> None:
    """From now on one process drives all its devices with partitioned programs. Before any tensor."""
    require_backend()
    import torch_xla.runtime as xr

    xr.use_spmd()


def is_spmd() -> bool:
    """True once `use_spmd` was called."""
    require_backend()
    import torch_xla.runtime as xr

    return bool(xr.is_spmd())

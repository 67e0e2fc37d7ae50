"""How torch_tpu connects processes, one for each device. It has no mode in which one drives several."""

from __future__ import annotations

import atexit
import os


def platform() -> str:
    """The platform that `PJRT_DEVICE` names, without starting it; a TPU if it names none.

    torch_tpu itself has TPUs alone. `PJRT_DEVICE=CPU` tells that its plugin is another one, for tests.
    """
    return os.environ.get("PJRT_DEVICE", "TPU").upper()


def init_process_group() -> None:
    """Connect the processes of a TPU, one for each chip: the devices by `tpu_dist`, the hosts by gloo.

    Not run on hardware so far.
    """
    import torch.distributed as dist

    dist.init_process_group("cpu:gloo,tpu:tpu_dist")


def end_without_waiting() -> None:
    """Have this process, however it ends, close its connections then and wait for no other.

    torch_tpu ends a process with a barrier of all. After an error, or `sys.exit` in one of them, the others
    wait for this one in another call: none would end, or learn of it, before the timeout of their group.
    """
    import torch_tpu  # noqa: F401 (what it does at the end is registered before, and so is called after)

    atexit.register(_close_connections)


def _close_connections() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def default_spmd() -> bool:
    """False: torch_tpu has one process for each device."""
    return False


def use_spmd() -> None:
    """Refuse the mode in which one process drives several devices.

    Raises:
        RuntimeError: always; torch_tpu has none.
    """
    raise RuntimeError(
        "distributed.initialize: torch_tpu has no partitioned programs (SPMD), so a process drives one "
        "device; leave spmd out, and start one process for each device with torchrun --nproc_per_node"
    )


def is_spmd() -> bool:
    """False: torch_tpu has no partitioned programs."""
    return False

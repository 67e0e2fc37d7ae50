"""How torch_tpu connects processes, one for each device. It has no mode in which one drives several."""

from __future__ import annotations

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

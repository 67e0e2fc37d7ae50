"""The seam to the accelerator backend: the one file that imports torch_xla.

Everything else in the package is plain ATen operators on tensors, so a second backend means a second
version of these few functions. The import happens on first use: configuration, input checking and CPU
serving work where torch_xla cannot load.
"""

from __future__ import annotations

import os
from typing import Literal

import torch

DeviceKind = Literal["CPU", "TPU"]


def device() -> torch.device:
    """The default XLA device of this process (`PJRT_DEVICE` picks the platform)."""
    import torch_xla

    return torch.device(torch_xla.device())


def is_accelerated(target: torch.device) -> bool:
    """Whether programs on `target` are traced and compiled; False for an ordinary CPU tensor's device."""
    return target.type == "xla"


def device_kind() -> DeviceKind:
    """What XLA compiles for; it decides the physical layout of the tables (`layout.py`)."""
    import torch_xla.runtime as xr

    return "TPU" if xr.device_type() == "TPU" else "CPU"


def world_size() -> int:
    """How many processes train together, as torchrun (`WORLD_SIZE`) or the runtime says."""
    import torch_xla.runtime as xr

    return max(int(os.environ.get("WORLD_SIZE", "1")), int(xr.world_size()))


def sync(wait: bool = False) -> None:
    """End the step: compile what was traced, if it is new, and run it.

    Args:
        wait: also wait until the device has finished (for timing, or before reading the clock).
    """
    import torch_xla
    import torch_xla.core.xla_model as xm

    torch_xla.sync()
    if wait:
        # sync(wait=True) of torch_xla 2.9 returns at dispatch on XLA:CPU.
        xm.wait_device_ops()


def compile_count() -> int:
    """How many programs this process has compiled so far."""
    import torch_xla.debug.metrics as met

    data = met.metric_data("CompileTime")
    return int(data[0]) if data else 0


def cpu_fallbacks() -> dict[str, int]:
    """Operators that left the device and ran on the host since the process began, with their counts."""
    import torch_xla.debug.metrics as met

    return {
        name: int(met.counter_value(name) or 0)
        for name in met.counter_names()
        if name.startswith("aten::")
    }

"""Kinds of devices, and which of torch's devices are accelerators."""

from __future__ import annotations

from typing import Literal

import torch

DeviceKind = Literal["CPU", "TPU"]
"""The kinds of device for which tables are laid out."""


def is_accelerated(target: torch.device) -> bool:
    """True if XLA compiles for a device, through either backend; False for an ordinary CPU tensor's device.

    Args:
        target: the device.
    """
    return target.type in ("xla", "tpu")

"""This process among the others: how they were started, and how many devices it shall use."""

from __future__ import annotations

import os


def num_processes() -> int:
    """The number of processes that torchrun started (`WORLD_SIZE`); 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def use_one_device() -> None:
    """This process shall use one device, whatever it sees."""
    _one_device.append(True)


def one_device_is_enough() -> bool:
    """True once `use_one_device` was called."""
    return bool(_one_device)


_one_device: list[bool] = []

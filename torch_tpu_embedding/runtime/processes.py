"""This process among the others: how they were started, and how it drives its devices."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from functools import cache


@cache
def require_torch_xla() -> None:
    """Check that torch_xla is there, before it is imported.

    Raises:
        ModuleNotFoundError: it is not installed, with the command that installs it.
    """
    with contextlib.suppress(ValueError):  # None stands for it in sys.modules
        if importlib.util.find_spec("torch_xla") is not None:
            return
    raise ModuleNotFoundError(
        "torch_xla is not installed, by which tables are trained and kept on XLA devices; run: pip install "
        "'torch_tpu_embedding[xla]'. device=\"cpu\", serving, export and checkpoints work without it",
        name="torch_xla",
    )


def note_started() -> None:
    """Note that this process uses the device."""
    _started.append(True)


def require_own_process(call: str) -> None:
    """Refuse a call in a process that was forked from one that uses the device.

    XLA's threads are not in it, and whatever it asks of the device waits for ever.

    Args:
        call: the name of the call, for the message.

    Raises:
        RuntimeError: this is such a process.
    """
    if _forked:
        raise RuntimeError(
            f"{call}: this process was forked from one that uses the XLA device, which it cannot use; let "
            "the workers of a DataLoader give host tensors, and move them in the loop, or in the `prepare` "
            "of an EmbeddingLoader"
        )


_started: list[bool] = []
_forked: list[bool] = []
os.register_at_fork(after_in_child=lambda: _forked.extend(_started))


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

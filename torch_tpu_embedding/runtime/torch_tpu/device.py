"""torch_tpu's device, and what the package asks of it.

An operator is compiled once for each shape and started at once, in the order of calls: nothing is traced,
and a step has no end of its own. What is private in torch_tpu (`_…`) is named in this file only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from ..backends import require_backend
from ..device_kinds import DeviceKind, is_accelerated
from ..own_process import note_started, require_own_process
from ..phases import timed
from ..processes import num_processes
from .processes import platform


def device() -> torch.device:
    """The TPU of this process; of several that it sees, the first.

    Raises:
        RuntimeError: torch_tpu has found no TPU.
    """
    require_backend()
    import torch_tpu  # noqa: F401 (registers the device, if `import torch` did not)

    try:
        found = torch.device("tpu", 0)
    except RuntimeError as error:
        raise RuntimeError(
            "TPUEmbedding: torch_tpu has found no TPU on this machine, and has no other device; run on a "
            "TPU VM, or with device='cpu' to look rows up"
        ) from error
    note_started()
    return found


def device_kind() -> DeviceKind:
    """The kind of device that runs the programs; it decides the physical layout of tables."""
    return "TPU" if platform() == "TPU" else "CPU"


def upload(value: Tensor, target: torch.device) -> Tensor:
    """Copy a host tensor to a device now; from any thread.

    Args:
        value: the host tensor.
        target: the device.

    Raises:
        RuntimeError: in a process that was forked from one that uses the device.
    """
    if is_accelerated(target):
        require_own_process("to_device")
    return value.to(target)


@timed("sync")
def sync(wait: bool = False) -> None:
    """End the step. Its operators were started when they were called, so there is nothing to start.

    Args:
        wait: wait until the device has finished (for timing, or before reading the clock).
    """
    require_own_process("sync")
    if wait:
        wait_for_device()


def wait_for_device() -> None:
    """Wait until the device has finished what was started."""
    start = time.perf_counter()
    torch.accelerator.synchronize()
    _waited[0] += time.perf_counter() - start


def manual_seed(seed: int) -> None:
    """Seed the device's random numbers (dropout), and with them torch's others.

    Args:
        seed: an int; with several processes another one in each, or all have the same masks.
    """
    torch.manual_seed(seed)


def compile_count() -> int:
    """The number of programs that this process has compiled so far; one for each operator and shape.

    Operators are compiled by a thread beside, so this waits for those that were called.
    """
    require_backend()
    from torch_tpu._internal.device import _device_ops_backend

    wait_for_device()
    return int(_device_ops_backend._get_cache_misses())


def wait_seconds() -> float:
    """Seconds that this process has waited for the device in `sync(wait=True)`. The time that a copy to the
    host waits is not known."""
    return _waited[0]


def is_computed(value: Tensor) -> bool:
    """True: the operators that a tensor needs were started when they were called.

    Args:
        value: a tensor on the device.
    """
    return True


def times_changed(value: Tensor) -> int | None:
    """None: the number of times that a tensor was changed in place is not known, for torch does not count
    changes of `value.data`.

    Args:
        value: a tensor on the device.
    """
    return None


@contextlib.contextmanager
def annotate(name: str) -> Iterator[None]:
    """Name the operators called in this context for torch's profiler.

    Args:
        name: shown by the profiler.
    """
    with torch.profiler.record_function(name):
        yield


_waited = [0.0]


def cpu_fallbacks() -> dict[str, int]:
    """None: under torch_tpu an operator without a kernel is an error."""
    return {}


def local_device_ids() -> list[int]:
    """The numbers of the devices that this process sees, of which it uses the first."""
    if num_processes() > 1:
        return [0]  # its own
    device()
    return [*range(torch.accelerator.device_count())]


def trace_out_of_place() -> contextlib.AbstractContextManager[object]:
    """A context without effect: torch_tpu traces nothing, and in-place arithmetic is what it does best."""
    return contextlib.nullcontext()

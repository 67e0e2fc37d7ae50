"""torch_xla's device, and what the package asks of it. torch_xla is imported at first use."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..backends import require_backend
from ..device_kinds import DeviceKind, is_accelerated
from ..own_process import note_started, require_own_process
from ..phases import timed
from .held import release


def device() -> torch.device:
    """The default XLA device of this process (`PJRT_DEVICE` picks the platform)."""
    require_backend()
    import torch_xla

    note_started()
    return torch.device(torch_xla.device())


def device_kind() -> DeviceKind:
    """The kind of device that XLA compiles for; it decides the physical layout of tables (`layout.py`)."""
    require_backend()
    import torch_xla.runtime as xr

    return "TPU" if xr.device_type() == "TPU" else "CPU"


def upload(value: Tensor, target: torch.device) -> Tensor:
    """Copy a host tensor to a device now; from any thread.

    `.to` on an XLA device only notes the tensor for later, and where another thread ends a step meanwhile,
    the device gets other data (seen in torch_xla 2.9).

    Args:
        value: the host tensor.
        target: the device.

    Raises:
        RuntimeError: in a process that was forked from one that uses the device.
    """
    if not is_accelerated(target):
        return value.to(target)
    require_own_process("to_device")
    return send(value, str(target), None)


def send(value: Tensor, target: str, sharding: Any) -> Tensor:
    """Copy a host tensor to a device now, or its parts to several; counted, see `programs.Traces`."""
    with _counting:
        sent["begun"] += 1
    (out,) = bindings()._xla_tensors_from_aten([value], [target], [sharding] if sharding else None)
    with _counting:
        sent["done"] += 1
    return as_typed(out)


sent = {"begun": 0, "done": 0}
"""How many uploads were begun by `send`, and how many are done."""
_counting = threading.Lock()


@timed("sync")
def sync(wait: bool = False) -> None:
    """End the step: compile what was traced, if it is new, and run it.

    Args:
        wait: also wait until the device has finished (for timing, or before reading the clock).
    """
    require_backend()
    import torch_xla

    require_own_process("sync")
    _scopes.clear()  # torch_xla refuses to end a step within one
    torch_xla.sync()
    release()
    if wait:
        # sync(wait=True) of torch_xla 2.9 returns at dispatch on XLA:CPU.
        wait_for_device()


def wait_for_device() -> None:
    """Wait until the device has finished what was started."""
    import torch_xla.core.xla_model as xm

    start = time.perf_counter()
    xm.wait_device_ops()
    _waited[0] += time.perf_counter() - start


def manual_seed(seed: int) -> None:
    """Seed the device's random numbers (dropout), which `torch.manual_seed` does not reach.

    Args:
        seed: an int; with several processes another one in each, or all have the same masks.
    """
    require_backend()
    import torch_xla

    torch_xla.manual_seed(seed)
    seeded[:] = [seed]


seeded: list[int] = []
"""The seed given last to `manual_seed`."""


def compile_count() -> int:
    """The number of programs that this process has compiled so far."""
    require_backend()
    import torch_xla.debug.metrics as met

    data = met.metric_data("CompileTime")
    return int(data[0]) if data else 0


def wait_seconds() -> float:
    """Seconds that this process has waited for the device: at the end of a step for the one before it to
    finish, in `sync(wait=True)`, and for tensors to arrive on the host."""
    require_backend()
    import torch_xla.debug.metrics as met

    names = ("DeviceLockWait", "TransferFromDeviceTime")
    found = [data[1] for name in names if (data := met.metric_data(name))]
    total: float = _waited[0] + sum(found) / 1e9
    return total


def is_computed(value: Tensor) -> bool:
    """True if a device tensor's program has been started, so that reading the tensor starts none.

    Args:
        value: an XLA tensor.
    """
    return not bindings()._check_tensor_need_materialization([value])[0]


def times_changed(value: Tensor) -> int | None:
    """The number of times that a device tensor's memory was changed in place, through any alias; None with
    XLA_DISABLE_FUNCTIONALIZATION, where torch's own counter is all there is.

    That one misses changes of `value.data`.

    Args:
        value: an XLA tensor.
    """
    if torch._is_functional_tensor(value):
        count: int = torch._functionalize_mutation_counter(value)
        return count
    return None


@contextlib.contextmanager
def annotate(name: str) -> Iterator[None]:
    """Name the operators traced in this context for torch_xla's profiler, as `xp.Trace` does.

    Its own class tries to import jax at every call. The name ends where the program does (`sync`).

    Args:
        name: shown by the profiler.
    """
    profiler = bindings().profiler
    _scopes.append(profiler.scope_pusher(name))
    try:
        with profiler.TraceMe(name):
            yield
    finally:
        if _scopes:
            _scopes.pop()


_scopes: list[Any] = []
_waited = [0.0]


def cpu_fallbacks() -> dict[str, int]:
    """Operators that left the device and ran on the host since the process began, with their counts."""
    require_backend()
    import torch_xla.debug.metrics as met

    return {
        name: int(met.counter_value(name) or 0)
        for name in met.counter_names()
        if name.startswith("aten::")
    }


def all_to_all(blocks: Tensor, count: int) -> Tensor:
    """Exchange blocks of one device with the other processes' devices, in the program.

    Args:
        blocks: `[count, …]`; block k goes to process k.
        count: the number of processes.

    Returns:
        `[count, …]`; block k came from process k.
    """
    import torch_xla.core.xla_model as xm

    # Pinned layouts would make every replica's program another one.
    out: Tensor = xm.all_to_all(blocks, 0, 0, count, pin_layout=False)
    _order_no_more(blocks)
    return out


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a device tensor over the processes' devices, in the program.

    Args:
        values: of one shape in every process.
    """
    import torch_xla.core.xla_model as xm

    total: Tensor = xm.all_reduce("sum", values, pin_layout=False)
    _order_no_more(values)
    return total


def all_gather(values: Tensor, count: int) -> Tensor:
    """Join device tensors of all processes' devices along the first dimension, in the program.

    Args:
        values: `[n, …]`, of one shape in every process.
        count: the number of processes.

    Returns:
        `[count · n, …]`, the same on each device.
    """
    import torch_xla.core.xla_model as xm

    joined: Tensor = xm.all_gather(values, groups=[[*range(count)]], pin_layout=False)
    _order_no_more(values)
    return joined


def reduce_scatter(values: Tensor, count: int) -> Tensor:
    """The part for this process of the sum of device tensors over the processes' devices, in the program.

    Args:
        values: `[count · n, …]`, of one shape in every process.
        count: the number of processes.

    Returns:
        `[n, …]`.
    """
    import torch_xla.core.xla_model as xm

    part: Tensor = xm.reduce_scatter("sum", values, 1.0, 0, count, pin_layout=False)
    _order_no_more(values)
    return part


def _order_no_more(values: Tensor) -> None:
    """Drop the token by which torch_xla makes the next collective wait for the last one.

    It adds 0 times a number that the last one gave to all that the next one takes: an infinite row would
    turn what is exchanged after it into nan. XLA orders the collectives of a program by itself, the same
    way in every replica.
    """
    bindings()._set_all_reduce_token(str(values.device), None)


def local_device_ids() -> list[int]:
    """The global numbers of the devices that this process drives, in the backend's order."""
    require_backend()
    import torch_xla

    note_started()
    names = torch_xla._XLAC._xla_get_runtime_devices()
    return [int(name.rsplit(":", 1)[1]) for name in names]


def computation(name: str, module: bytes) -> Any:
    """A program for `call`.

    Args:
        name: shown by the profiler.
        module: a serialized HloModuleProto.
    """
    return bindings()._xla_op_computation_from_module_proto(name, module)


def call(program: Any, name: str, operands: list[Tensor]) -> Tensor:
    """Trace the call of a program that has one result.

    `_xla_tpu_custom_call` would be simpler, but its result never takes over the memory of an operand.

    Args:
        program: made by `computation`.
        name: of the operator in the trace.
    """
    (out,) = bindings()._xla_user_computation(f"xla::{name}", operands, program)
    return as_typed(out)


@cache
def bindings() -> Any:
    """torch_xla's own bindings, for what its Python functions do slowly or not at all."""
    require_backend()
    import torch_xla

    return torch_xla._XLAC


def as_typed(value: Any) -> Tensor:
    """A tensor that came from the bindings, which have no types."""
    out: Tensor = value
    return out

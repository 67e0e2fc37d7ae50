"""Memory that a step overwrites, known until some steps after it have begun, so that no call waits for it.

XLA's CPU device runs a program beside the host, but to destroy memory that was donated to a running program
waits for the program's end: `sync` would return only when the step is done. torch_xla destroys it when it
notes the results, unless something else knows it, too. Known here, nothing waits; only a host that is so
many steps ahead waits, for the oldest. It costs no memory: what a program overwrites is its result's.

A TPU queues programs and the end of their memory, and partitioned programs (SPMD) do not wait either; there
nothing is held, for a partitioned program would copy an array that is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from torch import Tensor

STEPS = 3
"""The steps whose memory is known; where it was that of one or two, `release` still waited now and then."""


class _Held:
    def __init__(self) -> None:
        self.now: list[list[Tensor]] = []
        """Memory that the step being traced overwrites."""
        self.before: deque[list[list[Tensor]]] = deque(maxlen=STEPS)
        """Memory that the steps before have overwritten, whose programs may still run; the last's last."""
        self.ended = 0
        """The steps that had ended at the last release."""


held = _Held()


def hold(tensors: Iterable[Tensor]) -> None:
    """Keep what is known of the memory of device tensors that the step to come overwrites.

    To be called before they are given new values. Has no effect but on one CPU device of XLA.

    Args:
        tensors: of any device; those that are not computed yet have no memory to hold.
    """
    known = [each for each in tensors if each.device.type == "xla"]
    if not known:
        return
    import torch_xla
    import torch_xla.runtime as xr

    if xr.device_type() != "CPU" or xr.is_spmd():
        return
    if _ended_steps() != held.ended:  # somebody has ended a step without `sync`
        release()
    pending = torch_xla._XLAC._check_tensor_need_materialization(known)
    computed = [each for each, is_so in zip(known, pending, strict=True) if not is_so]
    if computed:
        held.now.append(torch_xla._XLAC._get_tensors_xla_device_data_node(computed)[1])


def release() -> None:
    """A step has ended: let go of what the oldest of the steps before it has overwritten."""
    held.before.append(held.now)
    held.now, held.ended = [], _ended_steps()


def is_held(value: Tensor) -> bool:
    """True for a tensor that stands for memory which is held, and for nothing of the user's."""
    steps = (held.now, *held.before)
    return any(value is each for step in steps for part in step for each in part)


def _ended_steps() -> int:
    import torch_xla

    return int(torch_xla._XLAC._xla_counter_value("MarkStep") or 0)

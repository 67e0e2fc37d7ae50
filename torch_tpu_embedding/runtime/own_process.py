"""The check that a process may use the device: one forked from another that uses it may not."""

from __future__ import annotations

import os

from .backends import device_type


def note_started() -> None:
    """Take note that this process uses the device."""
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
            f"{call}: this process was forked from one that uses the {device_type().upper()} device, which "
            "it cannot use; let the workers of a DataLoader give host tensors, and move them in the loop, "
            "or in the `prepare` of an EmbeddingLoader"
        )


_started: list[bool] = []
_forked: list[bool] = []
os.register_at_fork(after_in_child=lambda: _forked.extend(_started))

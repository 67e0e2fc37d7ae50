"""A store that the processes of one start have to themselves.

After a failure torchrun starts all processes again (`--max-restarts`), but keeps the key-value store by
which they tell one another their addresses. The addresses of dead processes are still there, and whoever
reads one before it is overwritten tries to connect to nobody. Torchrun's restart count is no way out: it
may differ between hosts.

Letter: S processes.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store

_POLL_S = 0.02


def fresh_store(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """A part of `store` that these S processes, and none before them, have in common.

    Each process names itself at random, and the names of all S make the name of the start. That name stands
    once all have come to the same one: a dead process is in none, for it confirms nothing any more.

    Raises:
        RuntimeError: not all processes came within the timeout.
    """
    store.set(f"name/{rank}", secrets.token_hex(8))
    end = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < end:
        names = [store.get(f"name/{each}") for each in range(size)]  # waits for each
        attempt = hashlib.sha256(b" ".join(names)).hexdigest()
        store.set(f"confirmed/{attempt}/{rank}", "yes")
        if store.check([f"confirmed/{attempt}/{each}" for each in range(size)]):
            return PrefixStore(attempt, store)
        time.sleep(_POLL_S)
    raise RuntimeError(
        f"process {rank} waited {timeout.total_seconds():g} s for all of the {size} processes to start; "
        "look for the first error among their outputs"
    )

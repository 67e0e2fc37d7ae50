"""How processes meet: a store that those of one start have to themselves, and gloo's greetings left out.

After a failure torchrun starts all processes again (`--max-restarts`), but keeps the key-value store by
which they tell one another their addresses. The addresses of dead processes are still there, and whoever
reads one before it is overwritten tries to connect to nobody. Torchrun's restart count is no way out: it
may differ between hosts.

Letter: S processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store

_POLL_S = 0.02
_GREETING = b"[Gloo] Rank "
_LAST_LINES_S = 1.0
_descriptor = threading.Lock()


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


@contextlib.contextmanager
def without_greetings() -> Iterator[None]:
    """Keep what gloo says of its connections off the standard output, while processes connect.

    Gloo writes these lines to the file descriptor itself, several for each group, and has no switch for
    them. A program's results are there, too. What others write meanwhile passes through, line by line.
    """
    if not _descriptor.acquire(blocking=False):  # a thread that connects meanwhile
        yield
        return
    try:
        with contextlib.ExitStack() as undo:
            # an output that is closed shows nothing
            with contextlib.suppress(OSError):
                undo.callback(_put_back, *_filter_output())
            yield
    finally:
        _descriptor.release()


def _filter_output() -> tuple[int, threading.Thread]:
    output = os.dup(1)
    source, sink = os.pipe()
    passing = threading.Thread(target=_pass_on, args=(source, os.dup(output)), daemon=True)
    passing.start()
    os.dup2(sink, 1)
    os.close(sink)
    return output, passing


def _pass_on(source: int, output: int) -> None:
    with open(source, "rb") as lines, open(output, "wb", buffering=0) as shown:
        for line in lines:
            if not line.startswith(_GREETING):
                shown.write(line)


def _put_back(output: int, passing: threading.Thread) -> None:
    os.dup2(output, 1)
    os.close(output)
    passing.join(_LAST_LINES_S)  # a process that was started meanwhile may keep the pipe open

"""The names of collective calls, by which processes notice that they are not in the same one.

Every message between processes begins with a head: the name of the call that it belongs to, the count of
the numbers that follow, and as many of those as there is room for. All heads have one size, so that they
can be exchanged whatever each process believes to be doing. Letter: S processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

ROOM = 247
"""Numbers that travel with the head."""
_TEXT = 7  # numbers of 8 bytes that hold the name, or the beginning of it
_COUNT = 1 + _TEXT
_FIRST = 2 + _TEXT


@dataclass(eq=False)
class Call:
    """One collective call of this thread."""

    name: str
    agreed: set[object] = field(default_factory=set)
    """The groups whose processes were found to be in this call."""


_of_thread = threading.local()


@contextlib.contextmanager
def calling(name: str) -> Iterator[None]:
    """Name what this thread does with the other processes; inside of another such context, the
    outer name stays."""
    if current_call() is not None:
        yield
        return
    _of_thread.call = Call(name)
    try:
        yield
    finally:
        _of_thread.call = None


def current_call() -> Call | None:
    """The call that `calling` named, if this thread is within one, else None."""
    call: Call | None = getattr(_of_thread, "call", None)
    return call


def make_head(name: str, values: Tensor) -> Tensor:
    """The head of a message of 1-d int64 `values`, which holds the first `ROOM` of them."""
    head = torch.zeros(_FIRST + ROOM, dtype=torch.int64, device="cpu")
    head[0] = digest(name)
    text = name.encode()[: 8 * _TEXT].ljust(8 * _TEXT)
    head[1:_COUNT] = torch.frombuffer(bytearray(text), dtype=torch.int64)
    head[_COUNT] = len(values)
    first = values[:ROOM]
    head[_FIRST : _FIRST + len(first)] = first
    return head


def names_that_differ(heads: Tensor) -> list[str] | None:
    """The name in each of the heads `[S, …]`, or None if all have the same."""
    if bool((heads[:, 0] == heads[0, 0]).all()):
        return None
    texts = [bytes(row.view(torch.uint8).tolist()) for row in heads[:, 1:_COUNT].contiguous()]
    return [text.decode(errors="replace").strip() for text in texts]


def read_heads(heads: Tensor) -> tuple[list[int], Tensor]:
    """The counts of numbers, and the numbers in the heads `[S, ROOM]`."""
    counts: list[int] = heads[:, _COUNT].tolist()
    return counts, heads[:, _FIRST:]


def digest(text: str) -> int:
    """A number of 7 bytes by which equal texts are told from others."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")

"""The processes that train together, as the host side sees them: small messages and exact errors.

Ids, sizes and errors travel between the hosts here, never rows or gradients, which `exchange.py` moves.
Every call is collective: all processes make the same calls in the same order. Processes that do
not are told which call each of them is in (`calls.py`). Letter: S processes.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from .. import runtime
from ..runtime import host
from . import lost_peers
from .calls import ROOM, calling, current_call, make_head, names_that_differ, read_heads
from .rendezvous import without_greetings

TIMEOUT = timedelta(minutes=10)
"""The time that a process waits for the others before it gives up; one that died is noticed at once."""

_timeout = TIMEOUT
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1e-4, 2e-3


class PeerError(RuntimeError):
    """Another process failed, or is gone; nothing was changed by the call that raises this."""

    in_step = False
    """True if all processes have raised at the same point, and may go on together."""


class OutOfStepError(PeerError):
    """The processes are in different calls; nothing was changed by the one that raises this."""


class HostGroup(Protocol):
    """S processes with ranks 0 … S-1."""

    rank: int
    size: int

    def scoped(self, scope: str) -> HostGroup:
        """The same group, for calls of `scope`: two scopes are never in the same call."""

    def clone(self) -> HostGroup:
        """Another group of the same processes, whose calls may come between those of this one."""

    def gather(self, values: Tensor) -> Tensor:
        """`[n]` numbers of each process → `[S, n]`; n and dtype must be the same everywhere."""

    def gather_objects(self, value: Any) -> list[Any]:
        """A small picklable value of each process, in the order of ranks."""

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Send `pieces[p]`, 1-d, to process p; gives the pieces that each process sent here.

        Args:
            lengths: of the piece from each process. All pieces have the same dtype.
        """

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a CPU tensor over the processes, in place."""


class Alone:
    """One process: every collective is the identity."""

    rank = 0
    size = 1

    def scoped(self, scope: str) -> HostGroup:
        return self

    def clone(self) -> HostGroup:
        return self

    def gather(self, values: Tensor) -> Tensor:
        return values[None]

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        return [*pieces]

    def sum(self, values: Tensor) -> Tensor:
        return values


class DistGroup:
    """A `torch.distributed` process group that works on host tensors (gloo).

    Gloo ends the program where processes send each other other sizes than they expect, and waits for its
    timeout where they are in different functions of it. So a call begins with heads, which all have one
    size; whatever has another size travels by other functions, once all are known to be in one call.
    """

    def __init__(self, group: dist.ProcessGroup, scope: str = "") -> None:
        self._group = group
        self._scope = scope
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def scoped(self, scope: str) -> HostGroup:
        return DistGroup(self._group, scope)

    def clone(self) -> HostGroup:
        self._meet("connecting once more")
        ranks = dist.get_process_group_ranks(self._group)
        with without_greetings():
            group = dist.new_group(ranks, backend="gloo", timeout=_timeout)
        cloned = DistGroup(group, self._scope)
        weakref.finalize(cloned, _disconnect, group).atexit = False  # type: ignore[misc]
        return cloned

    def gather(self, values: Tensor) -> Tensor:
        if values.is_floating_point():  # messages are of int64: their bits travel
            bits = self.gather(values.double().view(torch.int64))
            return bits.view(torch.float64).to(values.dtype)
        parts = self._spread("gathering sizes", values)
        lengths = [len(part) for part in parts]
        if len(set(lengths)) > 1:
            raise OutOfStepError(f"the processes gather different counts of numbers, {lengths}")
        return torch.stack(parts)

    def gather_objects(self, value: Any) -> list[Any]:
        data = pickle.dumps(value)
        padded = bytearray(data.ljust(-(-len(data) // 8) * 8))  # what follows a pickle is not read
        parts = self._spread("gathering messages", torch.frombuffer(padded, dtype=torch.int64))
        return [pickle.loads(part.numpy().tobytes()) for part in parts]

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        doing = "exchanging ids, rows or gradients"
        self._meet(doing)
        out = pieces[0].new_empty(sum(lengths))
        sent = [len(piece) for piece in pieces]
        given, group = torch.cat([*pieces]), self._group
        with self._contact(doing):
            _wait(dist.all_to_all_single(out, given, [*lengths], sent, group, async_op=True))
        return [*torch.split(out, [*lengths])]

    def sum(self, values: Tensor) -> Tensor:
        self._meet("summing gradients")
        with self._contact("summing gradients"):
            _wait(dist.all_reduce(values, group=self._group, async_op=True))
        return values

    def _meet(self, doing: str) -> None:
        """Make sure that all processes are in one call, unless that is known already."""
        call = current_call()
        if call is None or self not in call.agreed:
            self._spread(doing, host.ints([]))

    def _spread(self, doing: str, values: Tensor) -> list[Tensor]:
        """Give 1-d int64 values to all processes; returns each one's values, which may differ in number."""
        call = current_call()
        name = (call.name if call is not None else doing) + self._scope
        head = make_head(name, values)
        heads = head.new_empty(self.size, len(head))
        with self._contact(doing):
            _wait(dist.all_gather([*heads], head, self._group, async_op=True))
        names = names_that_differ(heads)
        if names is not None:
            found = ", ".join(f"process {rank} in {each!r}" for rank, each in enumerate(names))
            raise OutOfStepError(
                f"the processes are out of step: {found}; all must make the same calls in the same order. "
                "The cause is most often an error that one of them caught before it went on, or a call "
                "under a condition that differs between them; start all processes again, from a checkpoint"
            )
        if call is not None:
            call.agreed.add(self)
        counts, numbers = read_heads(heads)
        more = max(counts) - ROOM
        if more > 0:
            sent, rest = values.new_zeros(more), values.new_empty(self.size * more)
            sent[: max(len(values) - ROOM, 0)] = values[ROOM:]
            with self._contact(doing):
                given, group = sent.repeat(self.size), self._group
                _wait(dist.all_to_all_single(rest, given, group=group, async_op=True))
            numbers = torch.cat([numbers, rest.view(self.size, more)], 1)
        return [row[:count] for row, count in zip(numbers, counts, strict=True)]

    @contextlib.contextmanager
    def _contact(self, doing: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            lost_peers.note(f"process {self.rank} lost another process while {doing}")
            raise PeerError(
                f"process {self.rank} of {self.size} lost another process while {doing} ({error}); it "
                "died, or took longer than the timeout of the process group; look for the first error "
                "among the outputs of the processes"
            ) from error


def host_group(process_group: dist.ProcessGroup | None) -> HostGroup:
    """The processes of a `torch.distributed` group, or all that were started together.

    Raises:
        RuntimeError: there are several, but `torch.distributed` is not initialised.
        ValueError: the group cannot work on host tensors.
    """
    lost_peers.forget()
    if process_group is None:
        count = runtime.num_processes()
        if not dist.is_initialized():
            if count == 1:
                return Alone()
            raise RuntimeError(
                f"TPUEmbedding: {count} processes were started, but they are not connected; call "
                "torch_tpu_embedding.distributed.initialize() first"
            )
        if dist.get_world_size() == 1:
            return Alone()
        # Never the user's own group: its calls must not come between ours.
        return DistGroup(_gloo_group(dist.group.WORLD))
    if "gloo" not in dist.get_backend(process_group):
        raise ValueError(
            "TPUEmbedding: process_group must be a gloo group, for ids are exchanged on the host, got "
            f"{dist.get_backend(process_group)!r}; make one with dist.new_group(backend='gloo')"
        )
    return DistGroup(process_group)


def set_timeout(timeout: timedelta) -> None:
    """Set the time that processes which connect from now on wait for one another."""
    global _timeout
    _timeout = timeout
    _gloo_group.cache_clear()


@cache
def _gloo_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    with without_greetings():
        group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=_timeout)
    return group


def _wait(work: Any) -> None:
    """Wait for a call of torch.distributed; a thread beside the main one asleep, and not in gloo.

    A thread that comes back from there when the interpreter has ended brings the program down.
    """
    if threading.current_thread() is not threading.main_thread():
        pause = _FIRST_PAUSE_S
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
    work.wait()


def _disconnect(group: dist.ProcessGroup) -> None:
    """Close the sockets of a group that nobody uses any more."""
    if dist.is_initialized():  # else they are closed already
        with contextlib.suppress(ValueError):  # a group that was destroyed by hand
            dist.destroy_process_group(group)


@contextlib.contextmanager
def together(group: HostGroup, what: str) -> Iterator[None]:
    """A block of work that succeeds on all processes or fails on all: its end is a collective.

    The work itself must be free of collectives, for a process that fails leaves it early.

    Args:
        what: the call that this is part of, for the message.

    Raises:
        PeerError: the work failed on another process; where it failed, its own exception goes on.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    raise_together(group, what, error)


def raise_together(group: HostGroup, what: str, error: Exception | None) -> None:
    """Raise on every process if one of them failed: its own error there, PeerError on the others.

    Args:
        what: the call that failed, for the message.
        error: this process's failure, or None.
    """
    failed = host.ints([error is not None])
    with calling(what):
        if bool(group.gather(failed).any()):
            report_failure(group, what, error)


def report_failure(group: HostGroup, what: str, error: Exception | None) -> None:
    """The second half of `raise_together`, once all processes know that one has failed."""
    message = f"{type(error).__name__}: {error}" if error is not None else None
    messages = group.gather_objects(message)
    if error is not None:
        raise error
    found = [f"process {rank}: {text}" for rank, text in enumerate(messages) if text is not None]
    failure = PeerError(
        f"{what}: failed on {len(found)} of {group.size} processes; " + "; ".join(found)
    )
    failure.in_step = True
    raise failure

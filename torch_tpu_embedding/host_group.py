"""The processes that train together, as the host side sees them: small messages and exact errors.

Ids, sizes and errors travel between the hosts here, never rows or gradients (those: `exchange.py`).
Every call is collective: all processes make the same calls in the same order. Letter: S processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from . import lost_peers, runtime

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it gives up; one that died is noticed at once."""

_timeout = TIMEOUT


class PeerError(RuntimeError):
    """Another process failed, or is gone; nothing was changed by the call that raises this."""


class HostGroup(Protocol):
    """S processes with ranks 0 … S-1."""

    rank: int
    size: int

    def clone(self) -> HostGroup:
        """Another group of the same processes, whose calls may come between those of this one."""

    def gather(self, values: Tensor) -> Tensor:
        """`[n]` int64 of each process → `[S, n]`; n must be the same everywhere."""

    def gather_objects(self, value: Any) -> list[Any]:
        """A small picklable value of each process, in the order of ranks."""

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Send `pieces[p]`, 1-d, to process p; gives what each sent here.

        Args:
            lengths: how long the piece from each process is. All pieces have the same dtype.
        """

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a CPU tensor over the processes, in place."""


class Alone:
    """One process: every collective is the identity."""

    rank = 0
    size = 1

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
    """A `torch.distributed` process group that works on host tensors (gloo)."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def clone(self) -> HostGroup:
        ranks = dist.get_process_group_ranks(self._group)
        return DistGroup(dist.new_group(ranks, backend="gloo", timeout=_timeout))

    def gather(self, values: Tensor) -> Tensor:
        out = values.new_empty(self.size, len(values))
        with self._contact("gathering sizes"):
            dist.all_gather([*out], values.contiguous(), group=self._group)
        return out

    def gather_objects(self, value: Any) -> list[Any]:
        out: list[Any] = [None] * self.size
        with self._contact("gathering messages"):
            dist.all_gather_object(out, value, group=self._group)
        return out

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        out = pieces[0].new_empty(sum(lengths))
        sent = [len(piece) for piece in pieces]
        with self._contact("exchanging ids, rows or gradients"):
            dist.all_to_all_single(out, torch.cat([*pieces]), [*lengths], sent, group=self._group)
        return [*torch.split(out, [*lengths])]

    def sum(self, values: Tensor) -> Tensor:
        with self._contact("summing gradients"):
            dist.all_reduce(values, group=self._group)
        return values

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
        return DistGroup(_gloo_group())
    if "gloo" not in dist.get_backend(process_group):
        raise ValueError(
            "TPUEmbedding: process_group must be a gloo group, for ids are exchanged on the host, got "
            f"{dist.get_backend(process_group)!r}; make one with dist.new_group(backend='gloo')"
        )
    return DistGroup(process_group)


def set_timeout(timeout: timedelta) -> None:
    """How long processes that connect from now on wait for one another."""
    global _timeout
    _timeout = timeout
    _gloo_group.cache_clear()


@cache
def _gloo_group() -> dist.ProcessGroup:
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=_timeout)
    return group


def raise_together(group: HostGroup, what: str, error: Exception | None) -> None:
    """Raise on every process if one of them failed: its own error there, PeerError on the others.

    Args:
        what: the call that failed, for the message.
        error: this process's failure, or None.
    """
    failed = torch.tensor([error is not None], dtype=torch.int64)
    if bool(group.gather(failed).any()):
        report_failure(group, what, error)


def report_failure(group: HostGroup, what: str, error: Exception | None) -> None:
    """The second half of `raise_together`, once all processes know that one has failed."""
    message = f"{type(error).__name__}: {error}" if error is not None else None
    messages = group.gather_objects(message)
    if error is not None:
        raise error
    found = [f"process {rank}: {text}" for rank, text in enumerate(messages) if text is not None]
    raise PeerError(
        f"{what}: failed on {len(found)} of {group.size} processes; " + "; ".join(found)
    )

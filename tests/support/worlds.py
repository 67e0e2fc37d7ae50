"""Several processes in one: a host group of threads, and what runs on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from torch_tpu_embedding.distributed.calls import current_call
from torch_tpu_embedding.distributed.group import OutOfStepError

T = TypeVar("T")


class _Board:
    """Where S threads leave things for one another."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.values: list[Any] = [None] * size

    def swap(self, rank: int, value: Any) -> list[Any]:
        call = current_call()
        self.values[rank] = call.name if call is not None else "", value
        self.barrier.wait(timeout=60)
        names, found = zip(*self.values, strict=True)
        self.barrier.wait(timeout=60)
        if len(set(names)) > 1:
            raise OutOfStepError(f"the threads are in {names}")
        return [*found]


class ThreadGroup:
    """A HostGroup whose processes are threads."""

    def __init__(self, board: _Board, rank: int) -> None:
        self.rank, self.size = rank, board.size
        self._board = board

    def scoped(self, scope: str) -> ThreadGroup:
        return self

    def clone(self) -> ThreadGroup:
        boards = self._board.swap(self.rank, _Board(self.size) if self.rank == 0 else None)
        return ThreadGroup(boards[0], self.rank)

    def gather(self, values: Tensor) -> Tensor:
        return torch.stack(self._board.swap(self.rank, values.clone()))

    def gather_objects(self, value: Any) -> list[Any]:
        return self._board.swap(self.rank, value)

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        sent = self._board.swap(self.rank, [piece.clone() for piece in pieces])
        received = [of_peer[self.rank] for of_peer in sent]
        assert [len(piece) for piece in received] == [*lengths]
        return received

    def sum(self, values: Tensor) -> Tensor:
        return values.copy_(sum(self._board.swap(self.rank, values.clone())))


def run_processes(size: int, work: Callable[[ThreadGroup], T]) -> list[T]:
    """Run `work` once for each of S processes, and give what each returned; the first error is raised."""
    board = _Board(size)
    results: list[Any] = [None] * size
    errors: list[tuple[int, BaseException]] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadGroup(board, rank))
        except BaseException as error:
            errors.append((rank, error))
            board.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if errors:
        own = [e for _, e in errors if not isinstance(e, threading.BrokenBarrierError)]
        raise own[0] if own else errors[0][1]
    return results

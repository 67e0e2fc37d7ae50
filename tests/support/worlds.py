"""Several processes in one: a host group of threads, and what runs on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from places import SLOW
from torch import Tensor

from torch_tpu_embedding.distributed.calls import current_call
from torch_tpu_embedding.distributed.group import OutOfStepError, PeerError

T = TypeVar("T")


class GoneError(RuntimeError):
    """A thread that failed, or did not come in time, has left nothing for the others."""


class Board:
    """Where S threads leave things for one another, round by round."""

    def __init__(self, size: int, parent: Board | None = None) -> None:
        self.size = size
        self._changed = parent._changed if parent else threading.Condition()
        self._gone: set[int] = parent._gone if parent else set()
        self._round = [0] * size
        self._left: dict[int, dict[int, tuple[str, Any]]] = {}

    def swap(self, rank: int, value: Any) -> list[Any]:
        """Leave a value, and take those of all threads."""
        call, number = current_call(), self._round[rank]
        self._round[rank] += 1
        with self._changed:
            left = self._left.setdefault(number, {})
            left[rank] = call.name if call is not None else "", value
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: len(left) == self.size or self._gone - left.keys(), timeout=60 * SLOW
            )
            if len(left) < self.size:
                raise GoneError(f"of {self.size} threads only {sorted(left)} came")
            self._left.pop(number - 1, None)  # all have taken theirs, for all are here
        names, found = zip(*(left[each] for each in range(self.size)), strict=True)
        if len(set(names)) > 1:
            raise OutOfStepError(f"the threads are in {names}")
        return [*found]

    def leave(self, rank: int) -> None:
        """The others shall not wait for this thread."""
        with self._changed:
            self._gone.add(rank)
            self._changed.notify_all()


class ThreadGroup:
    """A HostGroup whose processes are threads."""

    def __init__(self, board: Board, rank: int) -> None:
        self.rank, self.size = rank, board.size
        self._board = board

    def scoped(self, scope: str) -> ThreadGroup:
        return self

    def clone(self) -> ThreadGroup:
        boards = self._board.swap(
            self.rank, Board(self.size, self._board) if self.rank == 0 else None
        )
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
    """Run `work` once for each of S processes, and give what each returned.

    If some fail, the error of the first that has not only met another's is raised.
    """
    board = Board(size)
    results: list[Any] = [None] * size
    errors: list[tuple[int, BaseException]] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadGroup(board, rank))
        except BaseException as error:
            errors.append((rank, error))
            board.leave(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        followed = (GoneError, PeerError)
        raise min(errors, key=lambda each: (isinstance(each[1], followed), each[0]))[1]
    return results

"""Several processes in one: a host group of threads, and what runs on it.

The group refuses what the messages of the real one (`DistGroup`, over gloo) cannot carry, and changes what
it carries as that does; `messages.py` holds both equal.
"""

from __future__ import annotations

import pickle
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

    def swap(self, rank: int, doing: str, value: Any, scope: str = "") -> list[Any]:
        """Leave a value, and take those of all threads, which must be doing the same in the same call."""
        call, number = current_call(), self._round[rank]
        self._round[rank] += 1
        with self._changed:
            left = self._left.setdefault(number, {})
            left[rank] = (f"{call.name if call is not None else doing}{scope}", doing), value
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

    def __init__(self, board: Board, rank: int, scope: str = "") -> None:
        self.rank, self.size = rank, board.size
        self._board = board
        self._scope = scope

    def scoped(self, scope: str) -> ThreadGroup:
        return ThreadGroup(self._board, self.rank, scope)

    def clone(self) -> ThreadGroup:
        boards = self._swap("clone", Board(self.size, self._board) if self.rank == 0 else None)
        return ThreadGroup(boards[0], self.rank, self._scope)

    def gather(self, values: Tensor) -> Tensor:
        check_message("gather", values)
        assert not values.is_complex()
        all_values = self._swap("gather", values.clone())
        check_alike("gather", [each.dtype for each in all_values])
        if len({len(each) for each in all_values}) > 1:
            raise OutOfStepError(f"different counts: {[len(each) for each in all_values]}")
        found = torch.stack(all_values)
        return found if values.is_floating_point() else found.long()  # the messages are of int64

    def gather_objects(self, value: Any) -> list[Any]:
        return [pickle.loads(each) for each in self._swap("gather_objects", pickle.dumps(value))]

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        assert len(pieces) == len(lengths) == self.size, "one piece for each process"
        for piece in pieces:
            check_message("all_to_all", piece)
        check_alike("all_to_all", [piece.dtype for piece in pieces])
        sent = self._swap("all_to_all", [piece.clone() for piece in pieces])
        received = [of_peer[self.rank] for of_peer in sent]
        check_alike("all_to_all", [piece.dtype for piece in received])
        assert [len(piece) for piece in received] == [*lengths]
        return received

    def sum(self, values: Tensor) -> Tensor:
        assert values.is_contiguous(), "sum: gloo adds numbers in the order of memory"
        check_message("sum", values.view(-1))
        all_values = self._swap("sum", values.clone())
        check_alike("sum", [(each.dtype, each.shape) for each in all_values])
        return values.copy_(sum(all_values))

    def _swap(self, doing: str, value: Any) -> list[Any]:
        return self._board.swap(self.rank, doing, value, self._scope)


def check_message(call: str, values: Tensor) -> None:
    """Refuse what no message holds: no tensor, of another device than the CPU, or not 1-d."""
    assert isinstance(values, Tensor), f"{call}: {type(values)} is no tensor"
    assert values.device.type == "cpu", f"{call}: a tensor on {values.device}"
    assert values.layout == torch.strided, f"{call}: {values.layout}"
    assert values.dim() == 1, f"{call}: shape {[*values.shape]}, expected one dimension"


def check_alike(call: str, found: Sequence[Any]) -> None:
    """Gloo reads the bytes of one process as what another one has: all must have the same."""
    assert len(set(found)) == 1, f"{call}: the messages differ, {found}"


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

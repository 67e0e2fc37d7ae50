"""Saves in the background: handles, and the promise that no failure of one is silent."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path

from ...io.paths import local_path
from ..rows import HasShard

_NICE = 19
"""The niceness of the writing threads: the least priority there is."""


class SaveHandle:
    """One save. `wait()` returns when the step is complete, or raises what went wrong.

    Args:
        embedding: the one that is saved; only a weak reference to it is kept.
        directory: of the run, absolute.
        step: the number of the step.
        rank: of this process.
    """

    def __init__(self, embedding: HasShard, directory: Path, step: int, rank: int) -> None:
        self.step = step
        self.directory = directory
        self._rank = rank
        self._embedding = weakref.ref(embedding)
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread that the interpreter waits for at its end.

        Args:
            work: the writing half of the save; what it raises, `wait` raises.
        """
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint-save")
        with _lock:
            self._thread.start()
            _pending.append(self)

    def done(self) -> bool:
        """True once the save has ended, well or not."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Wait for the end of the save.

        Raises:
            CheckpointError, OSError: the save failed; says why, and is raised once.
        """
        if self._thread is not None:
            self._thread.join()
        with _lock:
            if self in _pending:
                _pending.remove(self)
            error, self._error = self._error, None
        if error is not None:
            error.add_note(f"this was the background save of step {self.step} in {self.directory}")
            raise error

    def concerns(self, embedding: HasShard, directory: Path | None, rank: int) -> bool:
        """True if a call for `embedding`, in `directory`, has to wait for this save.

        Args:
            embedding: of the call.
            directory: of the call, or None if it has none.
            rank: of this process.
        """
        same_place = self.directory == directory and self._rank == rank
        return self._embedding() is embedding or same_place

    def _run(self, work: Callable[[], None]) -> None:
        _give_way()
        try:
            work()
        except Exception as error:
            self._error = error


def _give_way() -> None:
    """Let training go first: this thread, and those it starts, take the processor time that others leave.

    Linux alone has a priority for each thread; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


_lock = threading.Lock()
_pending: list[SaveHandle] = []


def wait_before(embedding: HasShard, directory: Path | None = None) -> None:
    """Wait, before a call that must not overtake them, for the background saves of `embedding`, and for
    the saves of this rank in `directory`.

    Raises:
        CheckpointError, OSError: the first failure of these saves that no call has raised yet.
    """
    rank = embedding.shard.group.rank
    _wait_for(lambda handle: handle.concerns(embedding, directory, rank))


def wait(directory: str | os.PathLike[str] | None = None) -> None:
    """Wait for the background saves of this process, all or those in one directory.

    Args:
        directory: of a run; None for all.

    Raises:
        CheckpointError, OSError: a save failed, and no other call has raised its error.
    """
    chosen = local_path(directory, "directory").absolute() if directory is not None else None
    _wait_for(lambda handle: chosen is None or handle.directory == chosen)


def _wait_for(chosen: Callable[[SaveHandle], bool]) -> None:
    """Wait for all chosen saves, then raise the first failure."""
    first: Exception | None = None
    for handle in [*_pending]:
        if chosen(handle):
            try:
                handle.wait()
            except Exception as error:
                first = first or error
    if first is not None:
        raise first


@atexit.register
def _report_at_exit() -> None:
    """The last chance to show a failure."""
    for handle in [*_pending]:
        try:
            handle.wait()
        except Exception:
            print(
                f"torch_tpu_embedding: the background save of step {handle.step} in "
                f"{handle.directory} failed; that step is not complete",
                file=sys.stderr,
            )
            traceback.print_exc()

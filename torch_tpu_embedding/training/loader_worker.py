"""The thread behind an `EmbeddingLoader`: how it keeps in step with those of other processes, and its end.

A thread cannot be made to end while it is in the user's code (a disk that does not answer, an empty queue)
or waits for another process. Then it is left behind: it ends by itself when it comes back from there, takes
nothing more from the data and touches neither tables nor device.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from ..distributed.calls import calling
from ..distributed.group import HostGroup, PeerError, report_failure
from ..runtime import host
from .call_order import Queued

logger = logging.getLogger(__name__)

_POLL_S = 0.05
"""How soon a thread that waits for room notices that the loop is gone."""
_PATIENCE_S = {"data": 0.25, "others": 0.75, "device": 10.0}
"""How long the end of a loop waits for the thread, by the thing that the thread waits for."""


@dataclass(frozen=True)
class Drawn:
    """A batch as it comes from the data."""

    features: Any
    weights: Any
    value: Any
    """The value that the loop gets."""
    position: Any
    """The state of the data behind this batch."""
    number: int = 0
    """How many batches of the data came before."""


@dataclass(frozen=True)
class Item:
    """One hand-over of the thread to the loop: a batch, an error in its place, or the end of the data."""

    value: Any = None
    queued: Queued | None = None
    error: BaseException | None = None
    position: Any = None
    """The state of the data behind this batch."""


class Worker:
    """A thread that fills a queue, in step with those of the other processes, until it is stopped.

    It is stopped as well when nobody holds this object any more, and when the program ends.

    Args:
        draw: this process's batches.
        make: turns them into items; collective.
        depth: how many items may wait.
        done: called by the thread at its end if all processes were in step.
    """

    def __init__(
        self,
        draw: Generator[Drawn, None, None],
        make: Callable[[Drawn], Item],
        depth: int,
        group: HostGroup,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self._work = work = _Work(draw, make, depth, group, done)
        # The thread must not hold this object, whose end is its signal.
        self._thread = threading.Thread(target=work.run, name="EmbeddingLoader", daemon=True)
        weakref.finalize(self, work.stopped.set)
        _stop_at_exit()
        _live.add(self)
        self._thread.start()

    def get(self) -> Item:
        """The next item; waits for it."""
        return self._work.queue.get()

    def stop(self) -> bool:
        """End the thread; gives whether nothing that it shares with others will change any more.

        Waits for what is being sent to the device, but hardly for the data or for other processes.
        """
        work = self._work
        work.stopped.set()
        begin = time.monotonic()
        while self._thread.is_alive():
            while not work.queue.empty():  # the thread may be waiting for room
                work.queue.get_nowait()
            self._thread.join(_POLL_S / 5)
            at = work.at
            if time.monotonic() - begin > _PATIENCE_S[at] and self._thread.is_alive():
                what = {"data": "its data", "others": "other processes", "device": "the device"}[at]
                text = "EmbeddingLoader: the thread still waits for %s; it ends when they answer"
                logger.warning(text, what)
                return at != "device"
        return True


class _Work:
    """The work of the thread, and the state that it shares with the loop."""

    def __init__(
        self,
        draw: Generator[Drawn, None, None],
        make: Callable[[Drawn], Item],
        depth: int,
        group: HostGroup,
        done: Callable[[], None],
    ) -> None:
        self.queue: queue.Queue[Item] = queue.Queue(depth)
        self.stopped = threading.Event()
        self.at: Literal["data", "others", "device"] = "data"
        self._draw = draw
        self._make = make
        self._group = group
        self._done = done

    def run(self) -> None:
        """Fill the queue until the data ends, something fails, or a process stops."""
        in_step = True
        try:
            with torch.no_grad(), calling("EmbeddingLoader"):
                while (item := self._next()) is not None:
                    self._put(item)
                    if item.queued is None:
                        break
        except BaseException as error:
            in_step = not isinstance(error, PeerError) or error.in_step
            self._put(Item(error=error))
        finally:
            self._close()
            if in_step:
                self._done()

    def _next(self) -> Item | None:
        """The next item, after all processes have drawn a batch; None if this one shall stop."""
        drawn, error = None, None
        if not self.stopped.is_set():
            try:
                drawn = next(self._draw, None)
            except Exception as caught:
                error = caught
        told = self._tell(self.stopped.is_set(), error, drawn is None)
        stopped, _, ended = told.any(0).tolist()
        if stopped:
            if self.stopped.is_set():
                return None
            if error is not None:
                raise error
            gone = told[:, 0].nonzero()[:, 0].tolist()
            error = PeerError(
                f"EmbeddingLoader: the loop of processes {gone} of {self._group.size} has ended before its "
                "data; look for the first error among the outputs of the processes"
            )
            return Item(error=error)
        if ended:
            short = [rank for rank, end in enumerate(told[:, 2].tolist()) if end]
            if len(short) == self._group.size:
                return Item()
            raise ValueError(
                f"EmbeddingLoader: processes {short} of {self._group.size} have no batch left, the others "
                "have; give all the same number of batches"
            )
        assert drawn is not None
        self.at = "device"
        try:
            return self._make(drawn)
        except Exception as caught:
            if not isinstance(caught, PeerError) or caught.in_step:
                self._tell(False, caught, False)  # the others, if it failed here alone
            raise
        finally:
            self.at = "data"

    def _tell(self, stopped: bool, error: Exception | None, ended: bool) -> torch.Tensor:
        """`[S, 3]` bool: the processes that have stopped, failed, ended; raises if one has failed."""
        mine = host.ints([stopped, error is not None, ended])
        self.at = "others"
        told = self._group.gather(mine).bool()
        if bool(told[:, 1].any()) and not bool(told[:, 0].any()):
            report_failure(self._group, "EmbeddingLoader", error)
        self.at = "data"
        return told

    def _put(self, item: Item) -> None:
        """Hand over an item, waiting for room while the loop is there."""
        while not self.stopped.is_set():
            try:
                return self.queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue

    def _close(self) -> None:
        """End the data, whose files and processes may be open."""
        try:
            self._draw.close()
        except Exception:
            logger.exception("EmbeddingLoader: the data could not be closed")


_live: weakref.WeakSet[Worker] = weakref.WeakSet()


@cache
def _stop_at_exit() -> None:
    """Stop all threads before the backend, which is loaded by now, is closed: one that runs on while the
    interpreter ends may bring it down."""
    atexit.register(lambda: [worker.stop() for worker in [*_live]])

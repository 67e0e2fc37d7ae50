"""Batches prepared in the background: checked, deduplicated, exchanged and sent by a thread.

The thread runs ahead of training by a stated number of batches and no further. It talks to the threads of
the other processes through a group of its own, so its calls never come between those of training.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from . import host
from .embedding import TPUEmbedding
from .host_group import HostGroup, report_failure
from .step_queue import Queued

logger = logging.getLogger(__name__)

_POLL_S = 0.05  # how soon a thread that waits for room notices that the loop is gone
_PATIENCE_S = 10.0  # how long the end of a loop waits for the threads of other processes


@dataclass(frozen=True)
class _Drawn:
    """A batch as it comes from the data."""

    features: Any
    weights: Any
    value: Any
    """What the loop will see."""
    position: Any
    """The state of the data behind this batch."""


@dataclass(frozen=True)
class _Item:
    """What the thread hands over: a batch, an error in its place, or the end of the data."""

    value: Any = None
    queued: Queued | None = None
    error: BaseException | None = None
    position: Any = None
    """The state of the data behind this batch."""


class EmbeddingLoader:
    """Iterates over batches whose features are already on the device; `dequeue` gives their activations.

        loader = EmbeddingLoader(batches, embedding, features=lambda batch: batch["ids"])
        for batch in loader:
            activations = embedding.dequeue()
            …
            embedding.apply_gradients()

    Each iteration starts a thread and ends it: at the end of the data, on `break` (when the iterator is
    dropped), and on an exception. An error of the data or of a batch is raised at that batch, after the
    ones before it. With several processes all must iterate alike.

    Args:
        batches: a `torch.utils.data.DataLoader`, or any iterable that can be iterated once per epoch.
        embedding: on an XLA device.
        depth: how many batches may be ready, besides the one in preparation.
        features, weights: what of a batch `enqueue` would be given; None for the batch itself and for no
            weights.
        prepare: called in the thread with each batch; what it returns is what the loop sees. The place to
            move labels to the device, with `embedding.to_device`: torch_xla's own `.to` is not safe in a
            thread. None leaves the batch as it is.
        training: as for `enqueue`.

    Raises:
        ValueError: depth is not a positive int.
        RuntimeError: the embedding is on the CPU.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        embedding: TPUEmbedding,
        depth: int = 2,
        *,
        features: Callable[[Any], Any] | None = None,
        weights: Callable[[Any], Any] | None = None,
        prepare: Callable[[Any], Any] | None = None,
        training: bool = True,
    ) -> None:
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
            raise ValueError(f"EmbeddingLoader: depth must be an int of at least 1, got {depth!r}")
        if not embedding.on_accelerator:
            raise RuntimeError(
                "EmbeddingLoader: this TPUEmbedding is on the CPU, where there is nothing to send; iterate "
                "over the batches themselves"
            )
        self.depth = depth
        self._batches = batches
        self._embedding = embedding
        self._features = features
        self._weights = weights
        self._prepare = prepare
        self._training = training
        embedding.build()
        self._group = embedding.engine.exchange.group.clone()
        self._batcher = embedding.engine.make_batcher(self._group)
        self._yielded = 0
        self._position: Any = None
        self._skip = 0

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        queued, skip = None, self._skip
        self._yielded, self._skip = skip, 0
        sizes = self._embedding.engine.batcher
        self._batcher.adopt_sizes(sizes)
        worker = _Worker(self._draw(skip), self._make, self.depth, self._group)
        try:
            item = worker.get()
            while item.queued is not None:
                queued = item.queued
                # Always wait for the next one, lest the program depend on which thread is faster.
                following = worker.get() if self._reads_ahead else None
                self._embedding.enqueue_prepared(queued, following.queued if following else None)
                self._yielded += 1
                self._position = item.position
                yield item.value
                item = following or worker.get()
            if item.error is not None:
                raise item.error
            self._yielded, self._position = 0, None
            self._embedding.flush()
        finally:
            if worker.stop():
                sizes.adopt_sizes(self._batcher)
            self._embedding.withdraw(queued)

    def state_dict(self) -> dict[str, Any]:
        """The place in the data: behind the batch that the loop has seen last.

        If `batches` has a `state_dict` of its own (torchdata's StatefulDataLoader), its state there; else
        the number of batches, which a resumed iteration skips.
        """
        return {"batches": self._yielded, "data": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration at a place that `state_dict` gave."""
        self._yielded, self._position = state["batches"], state["data"]
        self._skip = 0
        if state["data"] is not None:
            self._batches.load_state_dict(state["data"])  # type: ignore[attr-defined]
        else:
            self._skip = state["batches"]

    @property
    def _reads_ahead(self) -> bool:
        return self._training and self._embedding.pipelined

    def _draw(self, skip: int) -> Iterator[_Drawn]:
        """The batches of this process, from one on; runs in the thread."""
        data: Any = self._batches
        stateful = hasattr(data, "state_dict") and hasattr(data, "load_state_dict")
        for number, batch in enumerate(data):
            if number < skip:
                continue
            features = batch if self._features is None else self._features(batch)
            weights = None if self._weights is None else self._weights(batch)
            value = batch if self._prepare is None else self._prepare(batch)
            yield _Drawn(features, weights, value, data.state_dict() if stateful else None)

    def _make(self, drawn: _Drawn) -> _Item:
        """Check and send one batch; runs in the thread, on all processes at the same time."""
        queued = self._embedding.prepare(
            drawn.features, drawn.weights, self._training, self._batcher
        )
        return _Item(drawn.value, queued, position=drawn.position)


class _Worker:
    """A thread that fills a queue, in step with those of the other processes, until it is stopped.

    Args:
        draw: this process's batches.
        make: turns them into items; collective.
    """

    def __init__(
        self,
        draw: Iterator[_Drawn],
        make: Callable[[_Drawn], _Item],
        depth: int,
        group: HostGroup,
    ) -> None:
        self._queue: queue.Queue[_Item] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._draw = draw
        self._make = make
        self._group = group
        self._thread = threading.Thread(target=self._run, name="EmbeddingLoader", daemon=True)
        self._thread.start()

    def get(self) -> _Item:
        """The next item; waits for it."""
        return self._queue.get()

    def stop(self) -> bool:
        """End the thread; gives whether it has ended.

        Alone it ends at once; else when the others have come as far, or not at all if they are gone: then
        it is left behind, for this process is about to fail.
        """
        self._stopped.set()
        while not self._queue.empty():  # the thread may be waiting for room
            self._queue.get_nowait()
        self._thread.join(None if self._group.size == 1 else _PATIENCE_S)
        if self._thread.is_alive():
            logger.warning("EmbeddingLoader: the other processes did not stop; its thread stays")
            return False
        return True

    def _run(self) -> None:
        try:
            with torch.no_grad():
                while (item := self._next()) is not None:
                    self._put(item)
                    if item.queued is None:
                        return
        except BaseException as error:
            self._put(_Item(error=error))

    def _next(self) -> _Item | None:
        """The next item, after all processes have drawn a batch; None if one wants to stop."""
        drawn, error = None, None
        if not self._stopped.is_set():
            try:
                drawn = next(self._draw, None)
            except Exception as caught:
                error = caught
        mine = [self._stopped.is_set(), error is not None, drawn is None]
        told = self._group.gather(host.ints(mine)).bool()
        stopped, failed, ended = told.any(0).tolist()
        if stopped:
            return None
        if failed:
            report_failure(self._group, "EmbeddingLoader", error)
        if ended:
            short = [rank for rank, end in enumerate(told[:, 2].tolist()) if end]
            if len(short) == self._group.size:
                return _Item()
            raise ValueError(
                f"EmbeddingLoader: processes {short} of {self._group.size} have no batch left, the others "
                "have; give all the same number of batches"
            )
        assert drawn is not None
        return self._make(drawn)

    def _put(self, item: _Item) -> None:
        """Hand over an item, waiting for room while the loop is there."""
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue

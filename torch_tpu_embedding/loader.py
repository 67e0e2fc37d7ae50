"""Batches prepared in the background: checked, deduplicated, exchanged and sent by a thread.

The thread runs ahead of training by a stated number of batches and no further. It talks to the threads of
the other processes through a group of its own, so its calls never come between those of training.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any

from .batch.batcher import Batcher
from .embedding import TPUEmbedding
from .training.call_order import Queued
from .training.loader_worker import Drawn, Item, Worker
from .training.once_only import OnceOnly
from .training.random_order import warn_of_random_order


class EmbeddingLoader:
    """Iterates over batches whose features are already on the device; `dequeue` gives their activations.

        loader = EmbeddingLoader(batches, embedding, features=lambda batch: batch["ids"])
        for batch in loader:
            activations = embedding.dequeue()
            …
            embedding.apply_gradients()

    Each iteration starts a thread and ends it: at the end of the data, on `break` (when the iterator is
    dropped), and on an exception. An error of the data or of a batch is raised at that batch, after the
    ones before it. A thread that waits for the data, or for another process, cannot be ended: it is left
    behind with a warning in the log, and ends when it is answered. With several processes all must iterate
    alike, and a loop that one of them leaves early is a PeerError for the others.

    Each batch must be dequeued before the loop takes the next one; `embedding.discard()` skips it. A loop
    that goes on without either is a RuntimeError, for its batches would no longer fit their activations.

    Args:
        batches: a `torch.utils.data.DataLoader`, or any iterable that can be iterated once per epoch. A
            generator can be iterated once in all: a second epoch of nothing is an error.
        embedding: on an XLA device.
        depth: how many batches may be ready, besides the one in preparation.
        features: batch → the features that `enqueue` would be given; None for the batch itself.
        weights: batch → the weights that `enqueue` would be given; None for no weights.
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
        self._steps = embedding._steps
        self._features = features
        self._weights = weights
        self._prepare = prepare
        self._training = training
        embedding.build()
        self._yielded = 0
        self._position: Any = None
        self._skip = 0
        self._loads = 0
        self._fresh = False
        """True from `load_state_dict` to the iteration that begins there."""
        self._handed: Callable[[], Queued | None] = lambda: None
        """The batch that a loop was given last, if there is still use for it."""
        self._once_only = OnceOnly(batches)

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        self._require_taken()
        queued, count, worker = None, self._skip, None
        if not self._fresh:
            self._position = None
        self._yielded, self._skip, self._fresh = count, 0, False
        loads = self._loads
        engine = self._embedding._tables.engine
        self._once_only.begin()
        number, group = engine.spare_groups.borrow()
        batcher = engine.make_batcher(group)
        batcher.adopt_sizes(engine.batcher)
        make = partial(self._make, batcher)
        done = partial(engine.spare_groups.give_back, number, group)
        try:
            worker = Worker(self._draw(count), make, self.depth, group, done)
            item = worker.get()
            while item.queued is not None:
                queued = item.queued
                # Always wait for the next one: the program must not depend on which thread is faster.
                following = worker.get() if self._reads_ahead else None
                self._steps.enqueue_prepared(queued, following.queued if following else None)
                count += 1
                self._yielded, self._position = count, item.position
                self._handed = weakref.ref(queued)
                yield item.value
                self._require_taken()
                self._require_place(loads)
                item = following or worker.get()
            if item.error is not None:
                raise item.error
            self._yielded, self._position = 0, None
            self._embedding.flush()
        finally:
            if worker is not None and worker.stop():
                engine.batcher.adopt_sizes(batcher)
            self._steps.withdraw(queued)

    def _require_taken(self) -> None:
        """Raise RuntimeError if the batch that a loop was given last has not been dequeued."""
        if self._steps.queue.waits(self._handed()):
            raise RuntimeError(
                f"EmbeddingLoader: the loop goes on, and batch {self._yielded - 1} (counted from 0), which "
                "it was given last, has not been dequeued: from here on each dequeue would give the "
                "activations of an earlier batch. Call embedding.discard() to skip a batch, before "
                "`continue` or where an exception is caught"
            )

    def _require_place(self, loads: int) -> None:
        """Raise RuntimeError if `load_state_dict` was called since an iteration began."""
        if self._loads != loads:
            raise RuntimeError(
                "EmbeddingLoader: load_state_dict was called within this loop, which goes on at its own "
                "place in the data and would be saved as another; leave the loop by `break`, and begin a "
                "new one, which starts at the place that was loaded"
            )

    def state_dict(self) -> dict[str, Any]:
        """The position in the data: behind the batch that the loop has seen last.

        If `batches` has a `state_dict` of its own (torchdata's StatefulDataLoader), its state there; else
        the number of batches, which a resumed iteration skips; in the middle of an epoch a RuntimeWarning
        says so where these come in random order.
        """
        if not self._has_state and self._yielded:
            warn_of_random_order(self._batches)
        return {"batches": self._yielded, "data": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration at a position that `state_dict` gave. A loop in which this is called
        must be left: to go on there is a RuntimeError.

        Args:
            state: as saved; the data must be the same, and without a state of its own come in the same
                order. Where it has fewer batches than were seen, the iteration is a ValueError.
        """
        if state["data"] is None and self._fresh and self._position is not None:
            raise RuntimeError(
                "EmbeddingLoader: batches was given the place of another state, from which no iteration "
                "has begun yet, and cannot be put back to its beginning; make it and the loader anew for "
                "this state"
            )
        self._yielded, self._position = state["batches"], state["data"]
        self._skip, self._fresh = 0, True
        self._loads += 1
        if state["data"] is None and state["batches"]:
            warn_of_random_order(self._batches)
        if state["data"] is not None:
            self._batches.load_state_dict(state["data"])  # type: ignore[attr-defined]
        else:
            self._skip = state["batches"]

    @property
    def _has_state(self) -> bool:
        return hasattr(self._batches, "state_dict") and hasattr(self._batches, "load_state_dict")

    @property
    def _reads_ahead(self) -> bool:
        return self._training and self._steps.pipelined

    def _draw(self, skip: int) -> Generator[Drawn, None, None]:
        """The batches of this process, from one on; runs in the thread."""
        data: Any = self._batches
        stateful = self._has_state
        count = 0
        for batch in data:
            count += 1
            if count <= skip:
                continue
            features = batch if self._features is None else self._features(batch)
            weights = None if self._weights is None else self._weights(batch)
            value = batch if self._prepare is None else self._prepare(batch)
            state = data.state_dict() if stateful else None
            yield Drawn(features, weights, value, state, count - 1)
        if count == 0:
            self._once_only.check()
        if count < skip:
            raise ValueError(
                f"EmbeddingLoader: load_state_dict gave the place behind {skip} batches, and the data has "
                f"{count}; give the data that the state was saved with. To begin at the first batch, "
                "iterate again"
            )

    def _make(self, batcher: Batcher, drawn: Drawn) -> Item:
        """Check and send one batch; runs in the thread, on all processes at the same time."""
        try:
            queued = self._steps.prepare(drawn.features, drawn.weights, self._training, batcher)
        except (TypeError, ValueError) as error:
            place = f"EmbeddingLoader: this was batch {drawn.number} of the data, counted from 0"
            if self._features is not None or "feature_config" not in str(error):
                error.add_note(place)
                raise
            explained = type(error)(
                f"{error}; EmbeddingLoader took the whole batch, a {type(drawn.features).__name__}, as "
                "features: if they are a part of it, pass features=lambda batch: … that gives this part"
            )
            explained.add_note(place)
            raise explained from error
        return Item(drawn.value, queued, position=drawn.position)

"""The part of TPUEmbedding that switches its metrics on and off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .monitoring.metrics import Metrics
from .runtime.modes import for_tables
from .table_module import TableModule


class MeasuredModule(TableModule):
    """Tables that can count what is done with them."""

    id_bounds: str
    _metrics: Metrics | None = None

    @for_tables
    def enable_metrics(
        self, *, every: int = 100, callback: Callable[[dict[str, Any]], object] | None = None
    ) -> None:
        """Begin to count, or begin anew. It takes a byte a row of the tables on the host.

            embedding.enable_metrics(every=100, callback=JsonLinesWriter("metrics.jsonl"))

        Args:
            every: one training step in so many is sampled for norms and hot rows. Its program is another
                one than that of the other steps: one more is compiled, at the second step.
            callback: called by `apply_gradients` at every such step with what `metrics` would give, of
                the steps since its last call; JsonLinesWriter, TensorBoardWriter or a function of yours.

        Raises:
            RuntimeError: the device is the CPU.
            ValueError: `every` is not a positive int.
        """
        if not self.on_accelerator:
            raise RuntimeError(
                "enable_metrics: this TPUEmbedding is on the CPU, where nothing is enqueued to be counted"
            )
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"enable_metrics: every must be an int of at least 1, got {every!r}")
        self._metrics = Metrics(self.resolved, self.engine, self.id_bounds, every, callback)
        self.engine.sampler = self._metrics.sampler

    def disable_metrics(self) -> None:
        """Stop counting, and forget the counts."""
        if self._metrics is not None:
            self._metrics = self.engine.sampler = None

    def metrics(self) -> dict[str, Any]:
        """What was counted since `enable_metrics`, in this process; see docs/pipelining.md for each entry.

        Raises:
            RuntimeError: `enable_metrics` was not called.
        """
        if self._metrics is None:
            raise RuntimeError("metrics: nothing is counted; call enable_metrics() before training")
        return self._metrics.report()

"""Pipelined execution: the rows of step k + 1 are read while the dense model works on step k.

TF's schedule (`pipeline_execution_with_tensor_core=True`): a step reads its rows, then the gradients of the
step before are applied, then it computes. So step k sees the updates of all steps up to k - 2, and none is
lost: `flush` applies what is held, and whatever looks at the tables flushes first.

In one program that means: apply(k - 1), then read(k + 1), and beside them compute(k), which depends on
neither, for its rows were read in the program before. Reading ahead needs the next batch; where none waits
yet, step k + 1 reads its own rows first, which are the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..program.engine import Engine, LookedUp
from .call_order import Queued


@dataclass(frozen=True)
class _Held:
    looked_up: LookedUp
    gradients: Sequence[Tensor]
    rates: Sequence[float]


class Pipeline:
    """The gradients that wait for the next step's lookup, and the batch that is next."""

    def __init__(self) -> None:
        self._held: dict[str | None, _Held] = {}
        self.next_batch: Queued | None = None
        """A training batch that will be enqueued next, if that is known (`EmbeddingLoader`)."""
        self._ahead = False

    @property
    def holds(self) -> bool:
        """Whether there are gradients that wait."""
        return bool(self._held)

    def step(
        self, engine: Engine, name: str | None, queued: Queued, behind: Queued | None
    ) -> tuple[LookedUp, list[Tensor]]:
        """Read a training batch as the tables are before the gradients held under `name`, apply those, then
        read the batch after it.

        Args:
            queued: the current batch.
            behind: the batch that waits behind it.
        """
        read_before = queued.read
        self.read_ahead(engine, [queued])
        found = queued.read
        assert found is not None
        queued.read = None
        following = behind or self.next_batch
        # The last step of an epoch, which reads nothing ahead, is a program of its own.
        as_before, self._ahead = (following is not None) == self._ahead, following is not None
        read_now = found[1] if found is not read_before else ()
        self._apply(engine, name, as_before, read_now)
        self.read_ahead(engine, [following])
        return found

    def hold(
        self,
        name: str | None,
        looked_up: LookedUp,
        gradients: Sequence[Tensor],
        rates: Sequence[float],
    ) -> None:
        """Keep the gradients of a step until the next one has read its rows."""
        self._held[name] = _Held(looked_up, gradients, rates)

    def flush(self, engine: Engine, waiting: Sequence[Queued]) -> None:
        """Apply all that is held. Batches that wait read their rows first, so that their numbers stay those
        of the schedule."""
        if not self._held:
            return
        self.read_ahead(engine, [*waiting, self.next_batch])
        for name in [*self._held]:
            self._apply(engine, name, may_sample=False)

    def read_ahead(self, engine: Engine, batches: Sequence[Queued | None]) -> None:
        """Read the rows of training batches that have not been read since the tables were last loaded."""
        for batch in batches:
            if batch is None or not batch.training:
                continue
            if batch.read is None or batch.read[0].loads != engine.loads:
                batch.read = engine.look_up(batch.sent, keep_records=False)

    def _apply(
        self, engine: Engine, name: str | None, may_sample: bool, read_before: Sequence[Tensor] = ()
    ) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            engine.update(held.looked_up, held.gradients, held.rates, may_sample, read_before)

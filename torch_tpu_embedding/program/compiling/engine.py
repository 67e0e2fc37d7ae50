"""The engine of one device under torch_tpu: a compiled lookup, a compiled update, and an eager write."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from ... import runtime
from ...runtime.modes import for_tables
from ...runtime.phases import timed
from ..engine import Engine
from ..stack_index import LookedUp, SentBatch
from .steps import CompiledSteps


class CompilingEngine(Engine):
    """An engine whose usual lookups and updates are compiled functions; arguments as for `Engine`.

    Rare ones run operator by operator, as all of `Engine` does there: an inference batch whose rows are
    read without slots, an update that is sampled for metrics or takes summed gradients, and those of
    optimizers that step once for each occurrence of an id or move every row. For one device alone.
    """

    @cached_property
    def _compiled(self) -> CompiledSteps:
        return CompiledSteps(self.store.stacks)

    @for_tables
    @timed("lookup", runtime.annotate)
    def look_up(self, batch: SentBatch, keep_records: bool = True) -> tuple[LookedUp, list[Tensor]]:
        if not keep_records:
            return super().look_up(batch, keep_records)
        weights = [of_stack[0] for of_stack in self.store.arrays]
        records, parts = self._compiled.look_up(batch, weights)
        looked_up = LookedUp(batch, records, self.store.version, self.store.loads)
        return looked_up, [parts[number] for number in range(self._num_features)]

    @for_tables
    @timed("update", runtime.annotate)
    def update(
        self,
        looked_up: LookedUp,
        gradients: Sequence[Tensor],
        rates: Sequence[float],
        may_sample: bool = True,
        read_before: Sequence[Tensor] = (),
    ) -> None:
        samplers = self.samplers if may_sample else []
        sampled = any(each.due for each in samplers)
        if sampled or looked_up.row_gradients or not self._compiled.takes_updates:
            super().update(looked_up, gradients, rates, may_sample, read_before)
            return
        for each in samplers:
            each.begin()
        # `read_before` was read already: what is called first runs first.
        records = looked_up.weight_records
        if looked_up.version != self.store.version or not records:
            records = self._gather(self._indices(looked_up.batch))
        on_device = [self.rates_on_device(n, rates) for n in range(len(self.store.stacks))]
        self._compiled.update(looked_up.batch, records, self.store.arrays, gradients, on_device)
        self.note_update(looked_up.batch, rates, self.store.version + 1)

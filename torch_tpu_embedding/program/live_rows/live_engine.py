"""The engine of tables of which some have a DynamicVocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ...batch.batcher import Batcher
from ...batch.sample_padding import Samples
from ...inputs.bags import Bags
from ...runtime.modes import for_tables
from ...vocabularies.live import Claim, LiveVocabularies
from ..engine import Engine
from ..stack_index import LookedUp, SentBatch
from .send import NewRowsSender
from .write import write_new_records


class LiveEngine(Engine):
    """An engine that finds the rows of ids, and writes those that start anew as a batch is looked up."""

    vocabularies: LiveVocabularies

    def use(self, vocabularies: LiveVocabularies) -> None:
        """Take the maps from ids to rows; called once, before the first batch."""
        self.vocabularies = vocabularies
        self._sender = NewRowsSender(self.store.stacks, {*vocabularies.maps})

    @for_tables
    def send(
        self,
        bags: Sequence[Bags] | Exception,
        training: bool = True,
        batcher: Batcher | None = None,
        samples: Samples | None = None,
    ) -> SentBatch:
        """As `Engine.send`; a training batch gives ids rows, and has the rows that start anew with it.

        A batch that cannot be sent leaves the maps as they were.

        Args:
            bags: as `parse_features` gives them: with a DynamicVocabulary they hold numbers of `raw_ids`.
            training: False changes no map.
            batcher: as for `Engine.send`.
            samples: as for `Engine.send`.
        """
        group = (batcher or self.batcher).group
        frozen = frozenset(self.frozen)
        found, new, claim = self.vocabularies.look_up(bags, training, frozen, group)
        try:
            sent = super().send(found, training, batcher, samples)
            started = self._sender.send(new, self.exchange, group) if training else {}
        except BaseException:
            self.vocabularies.take_back(claim)
            raise
        self.vocabularies.sent(claim)
        return replace(sent, new=started, claim=claim)

    @for_tables
    def look_up(self, batch: SentBatch, keep_records: bool = True) -> tuple[LookedUp, list[Tensor]]:
        """As `Engine.look_up`, after the rows that start anew with the batch were written."""
        for number, new in batch.new.items():
            parts = self._enter(number)
            ints, weights = self.exchange.enter(new.ints), self.exchange.enter(new.weights)
            write_new_records(self.store.stacks[number], parts, ints, weights)
            self._store(number, parts)
            self.store.delta_tracker.note_changed(number, new.records)
        if isinstance(batch.claim, Claim):
            self.vocabularies.written(batch.claim)
        return super().look_up(batch, keep_records)


def vocabularies_of(engine: Engine) -> LiveVocabularies | None:
    """The maps of an engine's tables; None if no table has a DynamicVocabulary."""
    return engine.vocabularies if isinstance(engine, LiveEngine) else None

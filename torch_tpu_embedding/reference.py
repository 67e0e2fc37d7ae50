"""What TPUEmbedding means, in plain torch loops and float64: the yardstick of the tests.

Slow and obvious on purpose. It shares the optimizers' row formulas with the fast path (they are checked
on their own) and nothing else: no stacks, no records, no deduplication, no gains.
Letters: B batch, V vocabulary, D dim, L max_sequence_length.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .config import Feature, resolve
from .layout import WEIGHT
from .learning_rates import current_rates
from .optimizers import Optimizer

Sample = Sequence[tuple[int, float]]
"""The (id, weight) pairs of one sample of one feature; of a sequence, in order of position."""


class ReferenceEmbedding:
    """Tables, lookup and update, one id at a time.

    Args:
        feature_config, optimizer: as for TPUEmbedding.
        state: a state_dict of TPUEmbedding that gives the tables and slots.
    """

    def __init__(
        self, feature_config: Any, optimizer: Optimizer | None, state: Mapping[str, Tensor]
    ) -> None:
        self.resolved = resolve(feature_config, optimizer)
        self.state = {
            key: value.to(torch.float64) for key, value in state.items() if key != "_extra_state"
        }

    def look_up(self, batch: Sequence[Sequence[Sample]]) -> list[Tensor]:
        """Activations in feature order, `[B, D]` or `[B, L, D]`; `batch[f][b]` is a sample."""
        return [
            torch.stack([self._combine(feature, sample) for sample in samples])
            for feature, samples in zip(self.resolved.features, batch, strict=True)
        ]

    def apply_gradients(
        self, batch: Sequence[Sequence[Sample]], gradients: Sequence[Tensor]
    ) -> None:
        """One optimizer step for each distinct (table, id) of the batch, with its summed gradient."""
        sums: dict[tuple[int, int], Tensor] = defaultdict(
            lambda: torch.zeros((), dtype=torch.float64)
        )
        for feature, samples, gradient in zip(
            self.resolved.features, batch, gradients, strict=True
        ):
            for sample, of_sample in zip(samples, gradient.to(torch.float64), strict=True):
                for place, (row, _) in enumerate(sample):
                    key = (feature.table_index, row)
                    if feature.max_sequence_length:
                        if place < feature.max_sequence_length:
                            sums[key] = sums[key] + of_sample[place]
                    else:
                        sums[key] = sums[key] + of_sample * self._gain(feature, sample, place)
        rates = current_rates(self.resolved.tables)
        for (index, row), gradient in sums.items():
            table = self.resolved.tables[index]
            if table.optimizer is None:
                continue
            weight = self.state[f"{table.name}.{WEIGHT}"][row]
            slots = {
                name: self.state[f"{table.name}.{name}"][row]
                for name in table.optimizer.slot_variable_names
            }
            rate = torch.tensor([rates[index]], dtype=torch.float64)
            change, slot_changes = table.optimizer.step(weight, slots, gradient, rate)
            weight += change
            for name, slot_change in slot_changes.items():
                slots[name] += slot_change

    def _combine(self, feature: Feature, sample: Sample) -> Tensor:
        table = self.state[f"{self.resolved.table_of(feature).name}.{WEIGHT}"]
        length = feature.max_sequence_length
        if length:
            out = table.new_zeros(length, table.shape[1])
            for place, (row, _) in enumerate(sample[:length]):
                out[place] = table[row]
            return out
        out = table.new_zeros(table.shape[1])
        for place, (row, _) in enumerate(sample):
            out += table[row] * self._gain(feature, sample, place)
        return out

    def _gain(self, feature: Feature, sample: Sample, place: int) -> float:
        weights = [weight for _, weight in sample]
        combiner = self.resolved.table_of(feature).combiner
        divisor = {
            "sum": 1.0,
            "mean": math.fsum(weights),
            "sqrtn": math.sqrt(math.fsum(weight * weight for weight in weights)),
        }[combiner]
        return weights[place] / divisor if divisor else 0.0

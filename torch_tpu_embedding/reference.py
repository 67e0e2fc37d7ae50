"""The meaning of TPUEmbedding in plain torch loops and float64: the yardstick of the tests.

Slow and obvious on purpose. It shares the optimizers' row formulas with the fast path (they are checked
on their own) and nothing else: no stacks, no records, no deduplication, no gains.
Letters: K rows of an id, B batch, V vocabulary, D dim, L max_sequence_length.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .config.learning_rates import current_rates
from .config.quantization import quantize
from .config.resolved import WEIGHT, Feature, resolve
from .config.vocabulary import HashedVocabulary
from .optimizers import Optimizer

Sample = Sequence[tuple[int, float]]
"""The (id, weight) pairs of one sample of one feature; of a sequence, in order of position."""


def rows_by_hash(id_: int, vocabulary: HashedVocabulary, num_rows: int) -> list[int]:
    """The row of an id by each hash function, in Python's own integers.

    SplitMix64's finalizer of the id and a constant of the function, without its lowest bit.
    """
    rows = []
    for number in range(vocabulary.hash_functions):
        digest = hashlib.sha256(f"{vocabulary.seed}/{number}".encode()).digest()
        h = (id_ + int.from_bytes(digest[:8], "little")) % 2**64
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB % 2**64
        rows.append(((h ^ (h >> 31)) >> 1) % num_rows)
    return rows


def random_bits_of(
    seed: int, table: str, step: int, row: int, dim: int, slot: str | None = None
) -> list[int]:
    """The 16 random bits with which each weight of a row is rounded, in Python's own integers.

    A hash of 32 bits serves column i and column i + D/2, rounded up, with its lower and its upper half.

    Args:
        slot: the name of a slot, for its bits instead.
    """
    of_slot = "" if slot is None else f"/{slot}"
    digest = hashlib.sha256(f"{seed}/{table}/{step}{of_slot}".encode()).digest()
    salt = int.from_bytes(digest[:8], "little") >> 1
    half = (dim + 1) // 2
    of_row = _hash_32((row ^ salt) % 2**32)
    hashes = [_hash_32(of_row ^ (column * 0x9E3779B9 % 2**32)) for column in range(half)]
    return [*(h % 2**16 for h in hashes), *(h >> 16 for h in hashes)][:dim]


def _hash_32(h: int) -> int:
    """The hash "lowbias32" (Wellons 2018)."""
    h = (h ^ (h >> 16)) * 0x7FEB352D % 2**32
    h = (h ^ (h >> 15)) * 0x846CA68B % 2**32
    return h ^ (h >> 16)


def round_to_bfloat16(value: float, random: int | None) -> float:
    """A float32 number rounded to one of the two numbers of bfloat16 around it.

    Args:
        random: 16 random bits, which are below the distance to the lower one, counted in 2^-16 of that
            between the two, as often as the result shall be the one further from 0; None for the nearest.
    """
    if random is None or not math.isfinite(value):
        return float(torch.tensor(value, dtype=torch.float32, device="cpu").bfloat16())
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    bits = bits + random >> 16 << 16
    (rounded,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(rounded)


def _in_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 numbers, rounded to float32 and then to the nearest of bfloat16 if that is the dtype."""
    return values.float().bfloat16().double() if dtype == torch.bfloat16 else values


class ReferenceEmbedding:
    """Tables, lookup and update, one id at a time.

    Args:
        feature_config, optimizer: as for TPUEmbedding.
        state: a state_dict of TPUEmbedding that gives the tables and slots.
        seed: as for TPUEmbedding; of the rounding of tables in bfloat16.
    """

    def __init__(
        self,
        feature_config: Any,
        optimizer: Optimizer | None,
        state: Mapping[str, Tensor],
        seed: int = 0,
    ) -> None:
        self._seed = seed
        self._updates = 0
        self.resolved = resolve(feature_config, optimizer)
        self.state = {
            key: value.to(torch.float64) for key, value in state.items() if key != "_extra_state"
        }

    def look_up(self, batch: Sequence[Sequence[Sample]]) -> list[Tensor]:
        """Activations in feature order, `[B, D]` or `[B, L, D]`; `batch[f][b]` is a sample."""
        return [
            _in_dtype(
                torch.stack([self._combine(feature, sample) for sample in samples]),
                feature.output_dtype,
            )
            for feature, samples in zip(self.resolved.features, batch, strict=True)
        ]

    def apply_gradients(
        self, batch: Sequence[Sequence[Sample]], gradients: Sequence[Tensor]
    ) -> None:
        """One optimizer step for each distinct (table, id) with its summed gradient, or, without
        gradient accumulation, one for each occurrence."""
        rates = current_rates(self.resolved.tables)
        sums: dict[tuple[int, int], Tensor] = {}
        for index, table in enumerate(self.resolved.tables):
            if table.optimizer is not None and table.optimizer.moves_all_rows:
                for row in range(table.vocabulary_size):
                    sums[index, row] = torch.zeros(table.dim, dtype=torch.float64, device="cpu")
        for index, row, gradient in self._occurrences(batch, gradients):
            optimizer = self.resolved.tables[index].optimizer
            if optimizer is not None and optimizer.use_gradient_accumulation:
                sums[index, row] = sums.get((index, row), 0.0) + gradient
            else:
                self._step(index, row, gradient, rates[index])
        for (index, row), gradient in sums.items():
            self._step(index, row, gradient, rates[index])
        self._updates += 1

    def _occurrences(
        self, batch: Sequence[Sequence[Sample]], gradients: Sequence[Tensor]
    ) -> Iterator[tuple[int, int, Tensor]]:
        """(table, id, gradient) of each id: feature by feature, sample by sample."""
        for feature, samples, gradient in zip(
            self.resolved.features, batch, gradients, strict=True
        ):
            for sample, of_sample in zip(samples, gradient.to(torch.float64), strict=True):
                if feature.max_sequence_length:
                    kept = sample[: feature.max_sequence_length]
                    for (id_, _), of_place in zip(kept, of_sample, strict=False):
                        if not self._is_padding(feature, id_):
                            for row in self._rows(feature, id_):
                                yield feature.table_index, row, of_place
                else:
                    sample = self._without_padding(feature, sample)
                    for position, (id_, _) in enumerate(sample):
                        gain = self._gain(feature, sample, position)
                        for row in self._rows(feature, id_):
                            yield feature.table_index, row, of_sample * gain

    def _step(self, index: int, row: int, gradient: Tensor, rate: float) -> None:
        table = self.resolved.tables[index]
        if table.optimizer is None:
            return
        weight = self.state[f"{table.name}.{WEIGHT}"][row]
        slots = {
            name: self.state[f"{table.name}.{name}"][row]
            for name in table.optimizer.slot_variable_names
        }
        lr = torch.tensor([rate], dtype=torch.float64, device="cpu")
        change, slot_changes = table.optimizer.step(weight, slots, gradient, lr)
        weight += change
        for name, slot_change in slot_changes.items():
            slots[name] += slot_change
        for name, value in {WEIGHT: weight, **slots}.items():
            if table.dtype_of(name) != torch.bfloat16:
                continue
            random: list[int | None] = [None] * table.dim
            if table.rounding == "stochastic":
                of_row = self._seed, table.name, self._updates, row, table.dim
                random[:] = random_bits_of(*of_row, None if name == WEIGHT else name)
            rounded = map(round_to_bfloat16, value.float().tolist(), random)
            value[:] = torch.tensor([*rounded], dtype=torch.float64, device="cpu")

    def _combine(self, feature: Feature, sample: Sample) -> Tensor:
        table = self.state[f"{self.resolved.table_of(feature).name}.{WEIGHT}"]
        length = feature.max_sequence_length
        if length:
            out = table.new_zeros(length, table.shape[1])
            for position, (id_, _) in enumerate(sample[:length]):
                out[position] = self._vector(feature, id_)
            return out
        out = table.new_zeros(table.shape[1])
        sample = self._without_padding(feature, sample)
        for position, (id_, _) in enumerate(sample):
            out += self._vector(feature, id_) * self._gain(feature, sample, position)
        return out

    def _is_padding(self, feature: Feature, id_: int) -> bool:
        table = self.resolved.table_of(feature)
        has_rows = table.config.vocabulary is None
        return id_ == (table.padding_row if has_rows else table.config.padding_idx)

    def _rows(self, feature: Feature, id_: int) -> list[int]:
        """The rows of an id: itself, or those that its table's vocabulary finds."""
        table = self.resolved.table_of(feature)
        if not isinstance(table.config.vocabulary, HashedVocabulary):
            return [id_]
        return rows_by_hash(id_, table.config.vocabulary, table.vocabulary_size)

    def _vector(self, feature: Feature, id_: int) -> Tensor:
        """The sum of the rows of an id; zeros for padding_idx."""
        dim = self.resolved.table_of(feature).dim
        out = torch.zeros(dim, dtype=torch.float64, device="cpu")
        if not self._is_padding(feature, id_):
            for row in self._rows(feature, id_):
                out += self._row(feature, row)
        return out

    def _without_padding(self, feature: Feature, sample: Sample) -> Sample:
        return [pair for pair in sample if not self._is_padding(feature, pair[0])]

    def _row(self, feature: Feature, row: int) -> Tensor:
        table = self.resolved.table_of(feature)
        value = self.state[f"{table.name}.{WEIGHT}"][row]
        return quantize(value, table.config.quantization_config)

    def _gain(self, feature: Feature, sample: Sample, position: int) -> float:
        weights = [weight for _, weight in sample]
        combiner = self.resolved.table_of(feature).combiner
        divisor = {
            "sum": 1.0,
            "mean": math.fsum(weights),
            "sqrtn": math.sqrt(math.fsum(weight * weight for weight in weights)),
        }[combiner]
        return weights[position] / divisor if divisor else 0.0

"""Ragged: samples with different numbers of ids, as flat values and row splits (`tf.RaggedTensor`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from ..runtime import host
from .number_rows import join_rows


@dataclass(frozen=True, eq=False, repr=False)
class Ragged:
    """Values of B samples end to end; sample b owns `values[row_splits[b]:row_splits[b + 1]]`.

    A sequence of its samples: `len(ragged)` is B, iteration gives each as a tensor, an index gives one of
    them or a Ragged of some.

    Args:
        values: `[N]`, ids (integers) or weights (floating point), on the host.
        row_splits: `[B + 1]` integers: from 0, never falling, to N.

    Raises:
        TypeError: a part is not a tensor.
        ValueError: a part is not on the host, not flat, or the splits do not cover the values.

    Examples:
        >>> ragged = Ragged.from_lists([[7, 8], [], [9]])
        >>> ragged.row_splits
        tensor([0, 2, 2, 3])
        >>> ragged[0], ragged[1:], ragged[[2, 0]].to_lists()
        (tensor([7, 8]), Ragged(2 samples, 1 values, torch.int64), [[9], [7, 8]])
    """

    values: Tensor
    row_splits: Tensor

    def __post_init__(self) -> None:
        for name in ("values", "row_splits"):
            part = getattr(self, name)
            if not isinstance(part, Tensor):
                raise TypeError(f"Ragged: {name} must be a torch.Tensor, got {type(part).__name__}")
            if part.dim() != 1:
                raise ValueError(f"Ragged: {name} must be 1-dimensional, got shape {[*part.shape]}")
            if part.device.type != "cpu":
                raise ValueError(f"Ragged: {name} must be a host (CPU) tensor, got {part.device}")
        splits = self.row_splits
        if splits.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"Ragged: row_splits must be int64 or int32, got {splits.dtype}")
        if len(splits) == 0 or int(splits[0]) != 0 or int(splits[-1]) != len(self.values):
            raise ValueError(
                f"Ragged: row_splits must begin with 0 and end with the number of values "
                f"({len(self.values)}), got {_ends(splits)}"
            )
        falls = (splits[1:] < splits[:-1]).nonzero()
        if len(falls):
            at = int(falls[0])
            raise ValueError(
                f"Ragged: row_splits must never fall, but row_splits[{at}] = {int(splits[at])} > "
                f"row_splits[{at + 1}] = {int(splits[at + 1])}"
            )

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Ragged:
        """From flat values and the number of values of each sample.

        Args:
            values: `[N]`, all samples end to end.
            lengths: `[B]` integers, which add up to N.

        Raises:
            TypeError: a part is not a tensor.
            ValueError: lengths are not flat integers, or do not add up to N.
        """
        if not isinstance(lengths, Tensor):
            raise TypeError(f"Ragged: lengths must be a torch.Tensor, got {type(lengths).__name__}")
        if lengths.dim() != 1 or lengths.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"Ragged: lengths must be 1-dimensional int64 or int32, got {lengths.dtype} "
                f"{[*lengths.shape]}"
            )
        splits = torch.zeros(len(lengths) + 1, dtype=torch.int64, device="cpu")
        torch.cumsum(lengths, 0, out=splits[1:])
        return cls(values, splits)

    @classmethod
    def from_lists(cls, rows: Any, dtype: torch.dtype | None = None) -> Ragged:
        """From the values of each sample.

        Args:
            rows: a list, tuple, 1-dimensional numpy array or host tensor of numbers for each sample; or a
                2-dimensional array or tensor `[B, n]`, of which every row counts whole.
            dtype: of the values. None is int64 for integers; floats in lists become float32, those in
                arrays and tensors keep their type.

        Raises:
            TypeError: a row is no sequence of numbers, or not on the host.
            ValueError: a row has another rank than 1, or a number is none of that dtype.
        """
        values, lengths = join_rows(rows, dtype)
        return cls.from_lengths(values, host.ints(lengths))

    @classmethod
    def cat(cls, parts: Sequence[Ragged]) -> Ragged:
        """The samples of all parts, one part after another.

        Args:
            parts: at least one, with values of one dtype.

        Raises:
            ValueError: there is no part.
        """
        if not parts:
            raise ValueError("Ragged.cat: give at least one Ragged")
        lengths = torch.cat([part.row_splits.diff().to(torch.int64) for part in parts])
        return cls.from_lengths(torch.cat([part.values for part in parts]), lengths)

    @property
    def batch_size(self) -> int:
        """B, the number of samples."""
        return len(self.row_splits) - 1

    def __len__(self) -> int:
        return self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        return (self.values[start:stop] for start, stop in pairwise(self.row_splits.tolist()))

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(
        self, index: slice | Tensor | np.ndarray[Any, Any] | Sequence[Any]
    ) -> Ragged: ...

    def __getitem__(self, index: Any) -> Tensor | Ragged:
        """One sample, or a Ragged of some.

        Args:
            index: an int, for the values `[n]` of that sample in the memory of `values`; or a slice,
                positions `[n]` (integers in any order) or a mask `[B]` of bools, for a Ragged of its own.

        Raises:
            IndexError: there is no such sample, or the index is of another kind.
        """
        if isinstance(index, slice):
            return self._gather(torch.from_numpy(np.arange(len(self))[index].copy()))
        if isinstance(index, (list, tuple, np.ndarray)):
            index = torch.from_numpy(np.array(index))
        if isinstance(index, Tensor) and index.dim() > 0:
            return self._gather(index)
        try:
            start, stop = self.row_splits[range(len(self))[index] :][:2].tolist()
        except (IndexError, TypeError) as error:
            raise IndexError(
                f"Ragged: index {index!r} is none of its {len(self)} samples; index with an int, a "
                "slice, positions or a mask"
            ) from error
        return self.values[start:stop]

    def _gather(self, index: Tensor) -> Ragged:
        if index.numel() == 0 and index.dim() == 1 and index.dtype != torch.bool:
            index = index.to(torch.int64)  # an empty list has no integers to be known by
        if index.dim() != 1 or index.is_floating_point() or index.is_complex():
            raise IndexError(
                f"Ragged: positions or a mask must be 1-dimensional integers or bools, got {index.dtype} "
                f"{[*index.shape]}"
            )
        chosen = index if index.dtype == torch.bool else index.to(torch.int64)
        splits = self.row_splits.to(torch.int64)
        starts, lengths = splits[:-1][chosen], splits.diff()[chosen]
        return self.from_lengths(take_spans(self.values, starts, lengths), lengths)

    def to_lists(self) -> list[list[Any]]:
        """One Python list per sample."""
        return [row.tolist() for row in self]

    def pin_memory(self) -> Ragged:
        """A copy in page-locked memory; `torch.utils.data.DataLoader(pin_memory=True)` calls it.

        Raises:
            RuntimeError: torch has no device that gains by it.
        """
        return Ragged(self.values.pin_memory(), self.row_splits.pin_memory())

    def __repr__(self) -> str:
        return f"Ragged({len(self)} samples, {len(self.values)} values, {self.values.dtype})"


def take_spans(values: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """The values of several spans, end to end.

    Args:
        values: `[N]`. starts, lengths: `[B]` int64; span b is `values[starts[b]:starts[b] + lengths[b]]`.
    """
    inner = torch.arange(int(lengths.sum()), dtype=torch.int64, device="cpu")
    shift = starts - (lengths.cumsum(0) - lengths)
    return values[inner + shift.repeat_interleave(lengths)]


def _ends(splits: Tensor) -> str:
    return f"{int(splits[0])} … {int(splits[-1])}" if len(splits) else "no splits at all"

"""Ragged: samples with different numbers of ids, as flat values and row splits (`tf.RaggedTensor`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import host


@dataclass(frozen=True, eq=False)
class Ragged:
    """Values of B samples end to end; sample b owns `values[row_splits[b]:row_splits[b + 1]]`.

    >>> Ragged.from_lists([[7, 8], [], [9]]).row_splits
    tensor([0, 2, 2, 3])

    Raises:
        TypeError: a part is not a tensor.
        ValueError: a part is not on the host, not flat, or the splits do not cover the values.
    """

    values: Tensor
    """`[N]`: ids (integers) or weights (floating point)."""
    row_splits: Tensor
    """`[B + 1]` integers: from 0, never falling, to N."""

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
        """From flat values `[N]` and the number of values of each sample `[B]`, integers."""
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
    def from_lists(
        cls, rows: Sequence[Sequence[float]], dtype: torch.dtype | None = None
    ) -> Ragged:
        """From one Python list per sample; int64 by default, float32 if any value is a float."""
        flat = [value for row in rows for value in row]
        if dtype is None:
            dtype = torch.float32 if any(isinstance(v, float) for v in flat) else torch.int64
        lengths = host.ints([len(row) for row in rows])
        return cls.from_lengths(torch.tensor(flat, dtype=dtype, device="cpu"), lengths)

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.row_splits) - 1


def _ends(splits: Tensor) -> str:
    return f"{int(splits[0])} … {int(splits[-1])}" if len(splits) else "no splits at all"

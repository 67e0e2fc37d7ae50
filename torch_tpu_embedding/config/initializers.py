"""Initializers of tables that come with the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowIdInitializer:
    """Fills row i with offset + i, after `tf.tpu.experimental.embedding.RowIdInitializer`: for tests.

    Args:
        offset: the value of row 0.

    Examples:
        >>> RowIdInitializer(10)((2, 3), torch.float32)
        tensor([[10., 10., 10.],
                [11., 11., 11.]])
    """

    offset: int = 0

    def __call__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        partition_shape: tuple[int, ...] | None = None,
        partition_offset: tuple[int, ...] = (0,),
    ) -> Tensor:
        shape = partition_shape or shape
        first = self.offset + partition_offset[0]
        rows = torch.arange(first, first + shape[0], dtype=dtype, device="cpu")
        return rows[:, None].expand(*shape).contiguous()

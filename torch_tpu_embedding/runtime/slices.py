"""Tensors cut into parts and joined, in the forms that torch_xla 2.9 traces fast and without a fault."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor


def cut(tensor: Tensor, lengths: list[int]) -> list[Tensor]:
    """`tensor.split(lengths)`, as slices: torch_xla 2.9 aborts the process when one result of an
    operator with several (split, sort) is used as an index."""
    if len(lengths) > 1 and min(lengths) == max(lengths):
        parts = torch.ops.aten.unbind_copy.int(tensor.view(len(lengths), -1))
        return list(parts)  # half as long to trace
    ends = accumulate(lengths)
    return [tensor.narrow(0, end - size, size) for end, size in zip(ends, lengths, strict=True)]


def separate(tensor: Tensor, lengths: list[int]) -> list[Tensor]:
    """`cut` for parts that are never an index: copies, which do not keep the whole tensor alive."""
    if len(lengths) == 1:
        return [tensor]
    return list(torch.ops.aten.split_with_sizes_copy.default(tensor, lengths))


def join(parts: list[Tensor]) -> Tensor:
    """The parts end to end."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)

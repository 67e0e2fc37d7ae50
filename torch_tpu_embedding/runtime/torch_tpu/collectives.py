"""Exchange between the processes' devices through torch_tpu's `tpu_dist`. Not run on hardware so far.

On one process each of these is the identity, which tests run; so are the same calls over gloo.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def all_to_all(blocks: Tensor, count: int) -> Tensor:
    """Exchange blocks of one device with the other processes' devices.

    Args:
        blocks: `[count, …]`; block k goes to process k.
        count: the number of processes.

    Returns:
        `[count, …]`; block k came from process k.
    """
    received = torch.empty_like(blocks, memory_format=torch.contiguous_format)
    dist.all_to_all_single(received, blocks.contiguous())
    return received


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a device tensor over the processes' devices.

    Args:
        values: of one shape in every process.
    """
    total = values.clone()
    dist.all_reduce(total)
    return total


def all_gather(values: Tensor, count: int) -> Tensor:
    """Join device tensors of all processes' devices along the first dimension.

    Args:
        values: `[n, …]`, of one shape in every process.
        count: the number of processes.

    Returns:
        `[count · n, …]`, the same on each device.
    """
    return all_to_all(values.expand(count, *values.shape), count).flatten(0, 1)


def reduce_scatter(values: Tensor, count: int) -> Tensor:
    """The part for this process of the sum of device tensors over the processes' devices.

    Args:
        values: `[count · n, …]`, of one shape in every process.
        count: the number of processes.

    Returns:
        `[n, …]`.
    """
    return all_to_all(values.view(count, -1, *values.shape[1:]), count).sum(0)

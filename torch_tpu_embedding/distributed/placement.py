"""The owner of each row: S processes hold one shard of every table each, the P devices of a process share
it.

`mod`: id i is row i // S of shard i mod S, so that the frequent ids of a vocabulary sorted by frequency
spread out. `div`: shards are contiguous ranges, the first V mod S of them one row longer. Shard k of table
t lies on process (k + t) mod S; otherwise the first ids of all tables would meet on process 0. Inside a
process row j of the shard lies on device (j + t // S) mod P, whatever the strategy; that split shows in no
key.

Letters: V vocabulary, S processes (and shards), P devices of a process, N ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Strategy = Literal["mod", "div"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


def shard_ids(vocabulary: int, num_shards: int, shard: int, strategy: Strategy) -> range:
    """The ids of one shard, in the order of its rows.

    >>> shard_ids(10, 4, 1, "mod"), shard_ids(10, 4, 1, "div")
    (range(1, 10, 4), range(3, 6))
    """
    if strategy == "mod":
        return range(shard, vocabulary, num_shards)
    size, longer = divmod(vocabulary, num_shards)
    start = shard * size + min(shard, longer)
    return range(start, start + size + (shard < longer))


def ceil_div(value: int, by: int) -> int:
    """`value / by`, rounded up."""
    return -(-value // by)


@dataclass(frozen=True)
class Placement:
    """The owners of the rows of all tables, seen from one process."""

    strategy: Strategy = "mod"
    num_shards: int = 1
    """S, the number of processes."""
    rank: int = 0
    """The number of this process."""
    local_devices: int = 1
    """P, the number of devices that this process drives."""

    @property
    def num_devices(self) -> int:
        """G, the number of devices of all processes; those of process p are p·P … p·P + P - 1."""
        return self.num_shards * self.local_devices

    def shard_of(self, table: int) -> int:
        """The shard of a table (given by its position) that this process holds."""
        return (self.rank - table) % self.num_shards

    def ids(self, table: int, vocabulary: int) -> range:
        """The ids of a table whose rows this process holds, in the order of its rows."""
        return shard_ids(vocabulary, self.num_shards, self.shard_of(table), self.strategy)

    def capacity(self, vocabulary: int) -> int:
        """The most rows of a table on any device; every device keeps room for that many."""
        longest_shard = ceil_div(vocabulary, self.num_shards)
        return ceil_div(longest_shard, self.local_devices)

    def rows_of_device(self, table: int, local_device: int) -> slice:
        """The rows of this process's shard that lie on one of its devices, in their order on the device."""
        first = (local_device - table // self.num_shards) % self.local_devices
        return slice(first, None, self.local_devices)

    def locate(
        self, table: int | Tensor, vocabulary: int | Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(device among all, row among those of the table on that device) of each id `[…]` int64.

        Args:
            table: the position of the table; or `[T, 1]`, of several whose ids are the rows of `ids`.
            vocabulary: V, of the same kind as `table`.
        """
        shards, devices = self.num_shards, self.local_devices
        if shards == 1:
            return _modulo(ids + table, devices), _over(ids, devices)
        if self.strategy == "mod":
            shard, row = _modulo(ids, shards), _over(ids, shards)
        else:
            size, longer = vocabulary // shards, vocabulary % shards
            border = longer * (size + 1)
            short = longer + (ids - border) // (size + (size == 0))
            shard = torch.where(ids < border, ids // (size + 1), short)
            row = (
                ids
                - shard * size
                - torch.minimum(shard, torch.as_tensor(longer, dtype=torch.int64, device="cpu"))
            )
        process = _modulo(shard + table, shards)
        device = _modulo(row + table // shards, devices)
        return process * devices + device, _over(row, devices)


# Of int64 numbers, in a fraction of the time of torch's `//` and `%`.


def _over(values: Tensor, by: int) -> Tensor:
    """`values // by`."""
    if by & (by - 1):
        return torch.from_numpy(np.floor_divide(values.numpy(), by))
    return values >> (by.bit_length() - 1)


def _modulo(values: Tensor, by: int) -> Tensor:
    """`values % by`."""
    return values - _over(values, by) * by if by & (by - 1) else values & (by - 1)

"""The device that owns an id, by hash, and the rows that it has to give away.

The rows of a table are shared among G *units*, one a device: unit k + S · d holds every P-th row of shard
k, from row d on. Its rows are those of one device (`distributed/placement.py`), in their order there. Under
'mod' the rows of unit u are u, u + G, …, however many processes drive the G devices.

Letters: V vocabulary (rows), S processes, P devices of a process, G devices of all, N ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..distributed.placement import Placement, shard_ids
from .id_maps.id_index import Ids

_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def owners(ids: Ids, num_units: int) -> NDArray[np.int64]:
    """The unit of each id `[N]`: the upper half of a hash of 64 bits, scaled to G."""
    h = ids.view(np.uint64) * _FACTORS[0]
    h ^= h >> np.uint64(29)
    h *= _FACTORS[1]
    h >>= np.uint64(32)
    h *= np.uint64(num_units)
    h >>= np.uint64(32)
    return h.view(np.int64)


def unit_rows(placement: Placement, vocabulary: int, unit: int) -> range:
    """The rows of a unit in a table of V rows."""
    shards = placement.num_shards
    shard = shard_ids(vocabulary, shards, unit % shards, placement.strategy)
    return shard[unit // shards :: placement.local_devices]


def local_units(placement: Placement, table: int) -> list[int]:
    """The unit of each device of this process, for the table at this position."""
    shards, devices = placement.num_shards, placement.local_devices
    shard = placement.shard_of(table)
    return [shard + shards * ((device - table // shards) % devices) for device in range(devices)]


def process_of(placement: Placement, table: int, units: NDArray[Any]) -> NDArray[Any]:
    """The process that has each of these units of a table."""
    return (units % placement.num_shards + table) % placement.num_shards

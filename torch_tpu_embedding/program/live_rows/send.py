"""New rows of a batch, padded and sent to the device.

Letters: n new rows, R records of a physical row.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch

from ...batch.agreement import most
from ...batch.padding import Headroom, PaddedSize
from ...distributed.exchange import Exchange
from ...distributed.group import HostGroup
from ...runtime import host
from ...tables.layout import StackLayout
from ...tables.low_precision.rounding import nearest
from ...vocabularies.live import NewRows
from ..stack_index import SentNewRows
from .write import shares_rows

_NEW = Headroom(2.0, 0.5, 6.0)
"""Headroom for new rows, whose number follows what is new in the data: more than that of unique rows."""


class NewRowsSender:
    """Sends the new rows of each stack that has a DynamicVocabulary; owns their padded sizes."""

    def __init__(self, stacks: tuple[StackLayout, ...], tables: set[int]) -> None:
        self._stacks = {
            number: stack for number, stack in enumerate(stacks) if tables & {*stack.table_indices}
        }
        self._sizes: weakref.WeakKeyDictionary[HostGroup, dict[int, PaddedSize]]
        self._sizes = weakref.WeakKeyDictionary()
        """The sizes of each group's batches, whose calls have the same order in all processes."""

    def send(self, new: NewRows, exchange: Exchange, group: HostGroup) -> dict[int, SentNewRows]:
        """The new rows of a training batch, per stack; a collective call."""
        records = {n: self._records(stack, new, exchange) for n, stack in self._stacks.items()}
        if group not in self._sizes:
            self._sizes[group] = {
                n: PaddedSize(f"new rows of stack {n}", _NEW) for n in self._stacks
            }
        counts = [max(map(len, of_devices)) for of_devices in records.values()]
        sent = {}
        for (number, stack), count in zip(self._stacks.items(), most(group, counts), strict=True):
            size = self._sizes[group][number].fit(count)
            ints = [self._ints(stack, each.numpy(), size) for each in records[number]]
            weights = host.zeros(len(ints) * size, stack.dim)
            parts = [table for table in stack.table_indices if table in new.rows]
            for device, each in enumerate(records[number] if parts else []):
                begin = device * size
                of_tables = [new.weights[table][device] for table in parts]
                weights[begin : begin + len(each)] = torch.cat(of_tables)
            if stack.rounding is not None:
                weights = nearest(weights)
            sent[number] = SentNewRows(
                exchange.put(torch.from_numpy(np.concatenate(ints))),
                exchange.put(weights),
                tuple(records[number]),
            )
        return sent

    @staticmethod
    def _records(stack: StackLayout, new: NewRows, exchange: Exchange) -> list[torch.Tensor]:
        """The records that start anew on each device of this process, rising."""
        firsts = dict(zip(stack.table_indices, stack.first_records, strict=True))
        parts = [table for table in stack.table_indices if table in new.rows]
        return [
            torch.cat([host.ints([]), *(new.rows[t][device] + firsts[t] for t in parts)])
            for device in range(exchange.local_devices)
        ]

    @staticmethod
    def _ints(stack: StackLayout, records: np.ndarray, size: int) -> np.ndarray:
        """The records of one device, padded, and their neighbours."""
        padded = np.full(size, stack.padding_record, np.int32)
        padded[: len(records)] = records
        shared = [each.records_per_row for each in stack.arrays if shares_rows(each)]
        at = [_neighbours(padded, len(records), each).reshape(-1) for each in shared]
        return np.concatenate([padded, *at])


def _neighbours(padded: np.ndarray, count: int, records_per_row: int) -> np.ndarray:
    """For each record `[n]` and each position in its physical row the number of the new record there, n if
    there is none: `[n, R]` int32."""
    first = padded // records_per_row * records_per_row
    wanted = first[:, None] + np.arange(records_per_row, dtype=np.int32)
    at = np.searchsorted(padded[:count], wanted)
    known = np.append(padded[:count], -1)
    return np.where(known[np.minimum(at, count)] == wanted, at, len(padded)).astype(np.int32)

"""New rows of a batch, padded and sent to the device.

Letters: n new rows, R records of a physical row.
"""

from __future__ import annotations

import numpy as np
import torch

from ...batch.padding import Headroom, PaddedSize
from ...distributed.exchange import Exchange
from ...runtime import host
from ...tables.layout import StackLayout
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
        self._sizes = {
            number: PaddedSize(f"new rows of stack {number}", _NEW) for number in self._stacks
        }

    def send(self, new: NewRows, exchange: Exchange) -> dict[int, SentNewRows]:
        """The new rows of a training batch, per stack."""
        sent = {}
        for number, stack in self._stacks.items():
            firsts = dict(zip(stack.table_indices, stack.first_records, strict=True))
            parts = [table for table in stack.table_indices if table in new.rows]
            records = torch.cat(
                [host.ints([]), *(new.rows[table] + firsts[table] for table in parts)]
            )
            count, size = len(records), self._sizes[number].fit(len(records))
            padded = np.full(size, stack.padding_record, np.int32)
            padded[:count] = records.numpy()
            weights = host.zeros(size, stack.dim)
            if parts:
                weights[:count] = torch.cat([new.weights[table] for table in parts])
            shared = [each.records_per_row for each in stack.arrays if shares_rows(each)]
            at = [_neighbours(padded, count, each).reshape(-1) for each in shared]
            ints = np.concatenate([padded, *at])
            sent[number] = SentNewRows(
                exchange.put(torch.from_numpy(ints)), exchange.put(weights), records
            )
        return sent


def _neighbours(padded: np.ndarray, count: int, records_per_row: int) -> np.ndarray:
    """For each record `[n]` and each position in its physical row the number of the new record there, n if
    there is none: `[n, R]` int32."""
    first = padded // records_per_row * records_per_row
    wanted = first[:, None] + np.arange(records_per_row, dtype=np.int32)
    at = np.searchsorted(padded[:count], wanted)
    known = np.append(padded[:count], -1)
    return np.where(known[np.minimum(at, count)] == wanted, at, len(padded)).astype(np.int32)

"""The numbers from which a device draws the random bits of a step's rounding.

Letters: T tables of a stack, F fields of it that are rounded, P devices of a process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...config.hashed_normal import seed_of
from ...config.resolved import WEIGHT, Resolved
from ...distributed.exchange import Exchange
from ...distributed.placement import Placement
from ...runtime import host
from ..layout import StackLayout
from ..store import TableStore


class RoundingKeys:
    """The keys of all stacks on the device, sent anew for each update.

    Args:
        store: the tables of `resolved`.
        seed: the same in all processes.
    """

    def __init__(
        self,
        resolved: Resolved,
        store: TableStore,
        placement: Placement,
        exchange: Exchange,
        seed: int,
    ) -> None:
        self._resolved = resolved
        self._store = store
        self._placement = placement
        self._exchange = exchange
        self._seed = seed
        self._held = [host.DeviceCopy() for _ in store.stacks]

    @property
    def tensors(self) -> list[Tensor | None]:
        """The keys that `on_device` gave last, by stack."""
        return [each.tensor for each in self._held]

    def on_device(self, number: int) -> Tensor | None:
        """The keys of a stack for its next update, `[P, (F + 1) T + 1]`; None if it rounds nothing by
        chance."""
        stack, step = self._store.stacks[number], self._store.updates
        if stack.rounding != "stochastic":
            return None

        def make() -> Tensor:
            return self._exchange.put(
                step_keys(self._resolved, stack, self._placement, self._seed, step)
            )

        return self._held[number].hold(step, make)

    def enter(self, number: int) -> Tensor | None:
        """One device's part of `on_device`."""
        keys = self.on_device(number)
        return None if keys is None else self._exchange.enter(keys)


def step_keys(
    resolved: Resolved, stack: StackLayout, placement: Placement, seed: int, step: int
) -> Tensor:
    """The numbers on which the random bits of a step depend, int32 `[P, (F + 1) T + 1]`: a hash of each
    field and table, the id that the record 0 would have if it were of that table, and the distance of the
    ids of neighbouring records."""
    tables = [resolved.tables[number] for number in stack.table_indices]
    salts = [_salt(seed, table.name, step, name) for name in stack.packed for table in tables]
    devices = placement.local_devices
    found: list[list[int]] = []
    for device in range(devices):
        starts, stride = list[int](), 1
        for number, table, record in zip(
            stack.table_indices, tables, stack.first_records, strict=True
        ):
            ids = placement.ids(number, table.vocabulary_size)
            stride = ids.step * devices
            first = ids.start + ids.step * placement.rows_of_device(number, device).start
            starts.append(first - stride * record)
        found.append([*map(_int32, [*salts, *starts, stride])])
    return torch.tensor(found, dtype=torch.int32, device="cpu")


def _salt(seed: int, table: str, step: int, field: str) -> int:
    of_slot = "" if field == WEIGHT else f"/{field}"
    return seed_of(f"{seed}/{table}/{step}{of_slot}")


def _int32(number: int) -> int:
    """The int32 of the lowest 32 bits of a number."""
    return (number + 2**31) % 2**32 - 2**31

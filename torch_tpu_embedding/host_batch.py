"""One batch on the host: per stack its unique records, the way back from each id, and the gains.

All that depends on the data happens here; what leaves is one int32 and one float32 buffer of sizes that
rarely change, so the device runs the same program at every step. With several devices, each asks the owners
of its rows for them, and the owners deduplicate what they are asked for; all processes agree on all sizes.

Letters: B batch, N ids, U unique rows, D dim, S processes, L devices of this process, G devices of all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from .config import Resolved
from .dedup import unique_inverse
from .features import Bags, split_bags
from .host_group import HostGroup, report_failure
from .layout import StackLayout
from .lookup import join
from .occurrences import Chunk, Occurrences, group_occurrences, make_chunks
from .padding import StackPadding
from .phases import phase, timed
from .plan import StackPlan, StackSizes, make_plans
from .requests import Request, Served, batch_order, make_request, serve
from .sharding import Placement


@dataclass(frozen=True)
class HostBatch:
    """What one enqueue sends to the devices of this process."""

    sizes: tuple[StackSizes, ...]
    ints: Tensor
    """`[L · n]` int32: the parts of the devices, one after another."""
    floats: Tensor
    """`[L · m]` float32, likewise."""
    chunks: tuple[tuple[Chunk, ...], ...]
    """Per stack, the occurrences in order, if its optimizer steps once for each of them."""
    records: tuple[tuple[Tensor, ...], ...]
    """Per stack and device of this process, the unique records that are looked up there."""


@dataclass(frozen=True)
class _Owned:
    """The unique records of one stack that one device looks up, for itself and for others."""

    records: Tensor
    """`[U]` int32, rising."""
    of_served: Tensor
    """`[m]` int32: the position in `records` of each record it is asked for."""


_Kinds = tuple[tuple[bool, ...], tuple[tuple[int, ...], ...]]


class Batcher:
    """Turns the bags of all features into host batches; owns the plans and the buckets."""

    def __init__(
        self,
        resolved: Resolved,
        stacks: tuple[StackLayout, ...],
        placement: Placement,
        group: HostGroup,
    ) -> None:
        self._resolved = resolved
        self._stacks = stacks
        self._placement = placement
        self._group = group
        self._plans: dict[_Kinds, tuple[StackPlan, ...]] = {}
        names = [
            ", ".join(repr(resolved.tables[t].name) for t in stack.table_indices)
            for stack in stacks
        ]
        # Training and inference are different programs anyway: neither shall make the other's grow.
        self._padding = {
            training: [StackPadding(f"{name} in {kind}") for name in names]
            for training, kind in ((True, "training"), (False, "inference"))
        }

    def adopt_sizes(self, other: Batcher) -> None:
        """Pad to no less than another batcher of the same tables does."""
        for training, padding in self._padding.items():
            for mine, its in zip(padding, other._padding[training], strict=True):
                mine.adopt(its)

    @timed("dedup")
    def make(self, bags: list[Bags] | Exception, training: bool = True) -> HostBatch:
        """Deduplicate, exchange and pad one batch; a collective call.

        Args:
            bags: in feature order, or why this process has none.

        Raises:
            Exception: the one given, or PeerError if another process gave one.
            ValueError: the batches of the processes are not of the same kinds.
        """
        local = self._placement.local_devices
        parts: list[list[Bags]] = []
        plans: tuple[StackPlan, ...] = ()
        requests: list[list[Request]] = []
        error = bags if isinstance(bags, Exception) else None
        if not isinstance(bags, Exception):
            try:
                parts = split_bags(self._resolved.features, bags, local)
            except ValueError as found:
                error = found
            else:
                plans = self._plan(parts[0])
                requests = [
                    [make_request(self._resolved, plan, part, self._placement) for part in parts]
                    for plan in plans
                ]
        counts, pooled = self._agree(plans, requests, training, error)
        served: list[list[Served]] = []
        if self._placement.num_devices == 1:
            owned = [[_Owned(only.records, only.inverse)] for (only,) in requests]
        else:
            with phase("exchange"):
                served = serve(requests, counts, self._group, local)
            owned = [
                [_own(plan, device) for device in of_stack]
                for plan, of_stack in zip(plans, served, strict=True)
            ]
        unique = self._most([max(o.records.numel() for o in of_stack) for of_stack in owned])
        blocks = counts.amax((0, 2, 3)).tolist()
        sizes = tuple(
            self._fit(plan, self._padding[training][n], unique[n], pooled[n], blocks[n])
            for n, plan in enumerate(plans)
        )
        chunks = self._chunks(sizes, parts[0], served, owned) if training else ((),) * len(sizes)
        ints, floats = [], []
        for device, part in enumerate(parts):
            for n, of_stack in enumerate(sizes):
                asked = served[n][device] if served else None
                ints.append(_ints(of_stack, requests[n][device], asked, owned[n][device], part))
                floats.append(_gains(of_stack, part))
        return HostBatch(
            sizes,
            join(ints),
            join(floats),
            chunks,
            tuple(tuple(each.records for each in of_stack) for of_stack in owned),
        )

    def _plan(self, bags: list[Bags]) -> tuple[StackPlan, ...]:
        kinds = tuple(each.bag is None for each in bags), tuple(each.shape for each in bags)
        if kinds not in self._plans:
            self._plans[kinds] = make_plans(self._resolved, self._stacks, *kinds)
        return self._plans[kinds]

    def _agree(
        self,
        plans: tuple[StackPlan, ...],
        requests: list[list[Request]],
        training: bool,
        error: Exception | None,
    ) -> tuple[Tensor, list[int]]:
        """Whether all processes are well and have the same kinds of features, and their sizes.

        Returns:
            counts `[S, stacks, L, G]` of what each device asks of each, and the most pooled ids that a
            device has, per stack.
        """
        if error is not None and self._group.size == 1:
            raise error
        shape = (len(self._stacks), self._placement.local_devices, self._placement.num_devices)
        counts, pooled = torch.zeros(shape, dtype=torch.int64), [0] * shape[0]
        for number, (plan, of_stack) in enumerate(zip(plans, requests, strict=True)):
            counts[number] = torch.stack([request.counts for request in of_stack])
            pooled[number] = max(r.inverse.numel() for r in of_stack) - plan.num_direct
        if self._group.size == 1:
            return counts[None], pooled
        kinds = "training" if training else "inference"
        for plan in plans:
            kinds += str([(s.feature_index, s.direct, s.shape) for s in plan.segments])
        head = torch.tensor([error is not None, _digest(kinds)])
        with phase("exchange"):
            told = self._group.gather(torch.cat([head, counts.view(-1), torch.tensor(pooled)]))
        if bool(told[:, 0].any()):
            report_failure(self._group, "enqueue", error)
        if bool((told[:, 1] != told[0, 1]).any()):
            all_kinds = self._group.gather_objects(kinds)
            rank = next(r for r, other in enumerate(all_kinds) if other != all_kinds[0])
            raise ValueError(
                "enqueue: the processes gave different kinds of batches: [(feature, one id a place, "
                f"shape), …] is {all_kinds[0]} on process 0 and {all_kinds[rank]} on process {rank}; "
                "every process must enqueue the same kinds of features in the same order"
            )
        end = 2 + counts.numel()
        return told[:, 2:end].reshape(-1, *shape), told[:, end:].amax(0).tolist()

    def _most(self, values: list[int]) -> list[int]:
        with phase("exchange"):
            if self._group.size == 1:
                return values
            most: list[int] = self._group.gather(torch.tensor(values)).amax(0).tolist()
        return most

    def _fit(
        self, plan: StackPlan, padding: StackPadding, unique: int, pooled: int, block: int
    ) -> StackSizes:
        devices = self._placement.num_devices
        limit = plan.stack.num_records
        if devices == 1 and not plan.num_bags:
            limit = min(limit, plan.num_direct)
        return StackSizes(
            plan,
            padding.unique.fit(unique + 1, limit=limit + 1),
            padding.pooled.fit(pooled) if plan.num_bags else 0,
            devices,
            padding.block.fit(block + 1) if devices > 1 else 0,
        )

    def _chunks(
        self,
        sizes: tuple[StackSizes, ...],
        part: list[Bags],
        served: list[list[Served]],
        owned: list[list[_Owned]],
    ) -> tuple[tuple[Chunk, ...], ...]:
        """The occurrences of the stacks that step once for each, in as many chunks on every device."""
        found: dict[int, list[Occurrences]] = {}
        for n, of_stack in enumerate(sizes):
            if not of_stack.plan.stack.steps_per_occurrence:
                continue
            if served:
                pairs = zip(served[n], owned[n], strict=True)
                found[n] = [_served_occurrences(of_stack, *pair) for pair in pairs]
            else:
                order = batch_order(of_stack.plan, part)
                found[n] = [
                    group_occurrences(own.records, own.of_served, order) for own in owned[n]
                ]
        if not found:
            return ((),) * len(sizes)
        needed = {n: [each.rows_of_chunks() for each in found[n]] for n in found}
        count = self._most([max(map(len, needed[n])) for n in found])
        rows = self._most(
            [
                max(each[k] if k < len(each) else 0 for each in needed[n])
                for n, most in zip(found, count, strict=True)
                for k in range(most)
            ]
        )
        chunks: list[tuple[Chunk, ...]] = [()] * len(sizes)
        for n, most in zip(found, count, strict=True):
            stack, padding = sizes[n].plan.stack, self._padding[True][n]
            chunks[n] = make_chunks(stack, found[n], rows[:most], padding.chunks)
            rows = rows[most:]
        return tuple(chunks)


def _own(plan: StackPlan, served: Served) -> _Owned:
    """Deduplicate what all devices ask of one."""
    records, of_served = unique_inverse(served.records.long(), plan.stack.num_records + 1)
    return _Owned(records.to(torch.int32), of_served)


def _served_occurrences(sizes: StackSizes, served: Served, owned: _Owned) -> Occurrences:
    """The occurrences that all devices sent to one, due feature after feature, then by sample."""
    assert served.features is not None
    of_slot = _serve_slots(sizes, served, owned)
    slots = (of_slot < len(owned.records)).nonzero()[:, 0]
    return group_occurrences(
        owned.records, of_slot, slots[torch.argsort(served.features, stable=True)]
    )


def _serve_slots(sizes: StackSizes, served: Served, owned: _Owned) -> Tensor:
    """`[G · block]` int32: which of the unique records lies in each slot; U - 1, padding, in the others."""
    slots = torch.full((sizes.num_devices, sizes.block), sizes.num_unique - 1, dtype=torch.int32)
    slots[torch.arange(sizes.block) < torch.tensor(served.lengths)[:, None]] = owned.of_served
    return slots.view(-1)


def _ints(
    sizes: StackSizes, request: Request, served: Served | None, owned: _Owned, bags: list[Bags]
) -> Tensor:
    """The int32 part of one stack on one device; `StackSizes.int_parts` names its pieces."""
    plan, stack, unique = sizes.plan, sizes.plan.stack, owned.records.numpy()
    ints = np.empty(sum(sizes.int_parts), dtype=np.int32)
    ends = [*accumulate(sizes.int_parts)]
    starts = [0, *ends[:-1]]
    records, groups, slots, to_direct, to_pooled, bag = map(
        ints.__getitem__, map(slice, starts, ends)
    )
    records[: unique.size] = unique
    records[unique.size :] = stack.padding_record
    if sizes.has_groups:
        firsts = np.searchsorted(unique, np.array(stack.first_records, dtype=np.int32))
        counts = np.diff(firsts, append=unique.size)
        groups[: unique.size] = np.repeat(np.arange(counts.size, dtype=np.int32), counts)
        groups[unique.size :] = 0
    places = request.inverse
    if served is not None:
        slots[:] = _serve_slots(sizes, served, owned)
        places = request.slots(sizes.block)
    num_pooled = places.numel() - plan.num_direct
    to_direct[:] = places[: plan.num_direct]
    to_pooled[:num_pooled] = places[plan.num_direct :]
    to_pooled[num_pooled:] = (sizes.num_slots or sizes.num_unique) - 1
    at = 0
    for segment in plan.pooled:
        of_id = bags[segment.feature_index].bag
        assert of_id is not None
        end = at + of_id.numel()
        bag[at:end] = of_id.numpy()
        bag[at:end] += segment.first
        at = end
    bag[at:] = max(plan.num_bags - 1, 0)
    return torch.from_numpy(ints)


def _gains(sizes: StackSizes, bags: list[Bags]) -> Tensor:
    """The gain of each pooled id, `[N]` float32, 0 for padding."""
    gain = np.empty(sizes.num_pooled, dtype=np.float32)
    at = 0
    for segment in sizes.plan.pooled:
        of_id = bags[segment.feature_index].gain
        assert of_id is not None
        end = at + of_id.numel()
        gain[at:end] = of_id.numpy()
        at = end
    gain[at:] = 0
    return torch.from_numpy(gain)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")

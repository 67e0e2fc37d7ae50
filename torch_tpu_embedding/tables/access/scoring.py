"""The rows with the highest scores, found where the rows lie, a chunk of a table at a time.

Each chunk is scored and joins the best ones so far, so that memory holds a chunk, never a table, and one
program of static shapes serves all chunks of all tables of a stack. Ties go to the lower record: records
rise with ids, the best ones so far stand before a chunk, and the selection is stable.

Letters: B queries, D dim, P devices of a process, n rows of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import runtime
from ...config.resolved import WEIGHT
from ...distributed.exchange import Exchange
from ...distributed.placement import Placement, ceil_div
from ...runtime import host
from ..layout import StackLayout
from ..low_precision.lanes import numbers_of

_CHUNK_BYTES = 16 << 20  # of the rows of a chunk, and of their scores
_LOWEST = torch.finfo(torch.float32).min
_FEWEST_QUERIES = 8  # of a program
_SMALLEST_NORM = 1e-12  # as in torch.nn.functional.normalize

Best = tuple[Tensor, Tensor]
"""The best rows so far: scores `[B, k]`, falling, and their numbers `[B, k]`; -inf and -1 where there are
none."""


@dataclass(frozen=True)
class Search:
    """A search for the best rows: the queries, and the range of this process's rows to look in."""

    queries: Tensor
    """`[B, D]` float32 on the host."""
    k: int
    start: int
    stop: int
    skip: int
    """A row that is never found; -1 for none."""
    most: int
    """The most rows that any process searches; all then run as many programs."""
    cosine: bool


def better(
    best: Best, queries: Tensor, rows: Tensor, first: Tensor, allowed: Tensor, *, dots: bool
) -> Best:
    """The best rows so far, and those of a chunk.

    Args:
        rows: the chunk `[n, D]`.
        first: the number of its first row, a scalar.
        allowed: `[n]` bool: the rows that may be found.
        dots: True to leave the dot products to a matrix product; a TPU rounds the factors of one.
    """
    scores = queries @ rows.T if dots else (queries[:, None, :] * rows[None]).sum(-1)
    # One nan, one zero, and nothing as low as what is not allowed: then every order of floats is the same.
    scores = torch.where(scores != scores, torch.nan, scores)
    scores = torch.where(scores == 0, 0.0, scores)
    scores = torch.where(scores == -torch.inf, _LOWEST, scores)
    scores = torch.where(allowed, scores, -torch.inf)
    k = best[0].shape[1]
    values, at = _first(torch.cat([best[0], scores], 1), k, dots)
    old = best[1].gather(1, at.clamp(max=k - 1))
    numbers = torch.where(at < k, old, (first + (at - k)).to(old.dtype))
    return values, torch.where(values == -torch.inf, -1, numbers)


def _first(scores: Tensor, k: int, dots: bool) -> tuple[Tensor, Tensor]:
    """The highest k scores of each query, falling, and their positions; of equal ones the first."""
    if dots and runtime.is_accelerated(scores.device):
        # XLA:CPU's own top-k, which is stable; its sort takes 20 times as long
        values, at = torch.topk(scores, k, dim=1)
    else:
        values, at = torch.sort(scores, dim=1, descending=True, stable=True)
        values, at = values[:, :k], at[:, :k]
    return values, at + 0  # what a sort gives must not be an index itself (torch_xla 2.9)


def normalized(rows: Tensor) -> Tensor:
    """Rows of norm 1; a row of zeros stays so."""
    return rows / rows.square().sum(-1, keepdim=True).sqrt().clamp(min=_SMALLEST_NORM)


def chunk_rows(queries: int, width: int) -> int:
    """The number of rows of a chunk: a power of two."""
    return 1 << (max(1, _CHUNK_BYTES // (4 * max(queries, width))).bit_length() - 1)


def padded(count: int) -> int:
    """The next power of two: each size is a program, so that few sizes mean few programs."""
    return 1 << (count - 1).bit_length()


def nothing(devices: int, queries: int, k: int) -> Best:
    """The best rows before the first chunk, on the host: those of several devices one after another."""
    scores = torch.full((devices * queries, k), -torch.inf, dtype=torch.float32, device="cpu")
    return scores, torch.full_like(scores, -1, dtype=torch.int32)


class Scorer:
    """The search in the array of a stack for rows of one of its tables."""

    def __init__(
        self,
        stack: StackLayout,
        array: Tensor,
        table: int,
        placement: Placement,
        exchange: Exchange,
    ) -> None:
        self._layout = stack.arrays[0]
        self._dots = stack.kind == "CPU"
        self._first = stack.first_records[stack.table_indices.index(table)]
        self._array = array
        self._exchange = exchange
        devices = range(placement.local_devices)
        self._begins = [placement.rows_of_device(table, device).start for device in devices]

    def find(self, search: Search) -> Best:
        """The best rows of each device side by side, at least k of each: their scores, and their numbers
        among the rows of this process (int64), on the host.

        Between processes whose devices share a program, a collective call.
        """
        if runtime.is_accelerated(self._array.device):
            runtime.sync()  # what was traced before is no part of this program
        layout, devices = self._layout, len(self._begins)
        asked, padded_k = search.queries, padded(search.k)
        few = max(_FEWEST_QUERIES, padded(len(asked))) - len(asked)
        filled = torch.cat([asked, asked.new_zeros(few, asked.shape[1])])
        count = chunk_rows(len(filled), layout.record_width)
        size = min(max(1, count // layout.records_per_row), layout.num_rows)
        bounds = [self._records(device, search) for device in range(devices)]
        at = [first >> layout.shift for first, _, _ in bounds]
        queries = self._exchange.put(filled.repeat(devices, 1))
        best = nothing(devices, len(filled), padded_k)
        best = self._exchange.put(best[0]), self._exchange.put(best[1])
        rows = ceil_div(search.most, devices) + layout.records_per_row
        for _ in range(ceil_div(rows, size * layout.records_per_row)):
            window = [self._bounds(*each, size) for each in zip(at, bounds, strict=True)]
            chosen = torch.tensor(window, dtype=torch.int32, device="cpu")
            best = self._chunk(best, queries, self._exchange.put(chosen), size, search.cosine)
            if runtime.is_accelerated(self._array.device):
                runtime.sync()
            at = [start + size for start in at]
        scores, numbers = (self._exchange.fetch(each) for each in best)
        shape = devices, len(filled), padded_k
        scores, numbers = scores.view(shape)[:, : len(asked)], numbers.view(shape)[:, : len(asked)]
        return self._as_rows(scores, numbers)

    def _records(self, device: int, search: Search) -> tuple[int, int, int]:
        """The records first … end - 1 of a device that are searched, and the one that is never found."""
        devices, begin = len(self._begins), self._begins[device]
        first, end = (ceil_div(row - begin, devices) for row in (search.start, search.stop))
        skipped = search.skip >= 0 and search.skip % devices == begin
        skip = self._first + search.skip // devices if skipped else -1
        return self._first + first, self._first + end, skip

    def _bounds(self, start: int, of_device: tuple[int, int, int], size: int) -> list[int]:
        """The first physical row of a chunk, the records in it that may be found, and the one that may not.

        The last chunk begins early enough to be a whole one; what was searched before is not allowed again.
        """
        first, end, skip = of_device
        low = min(max(first, start * self._layout.records_per_row), end)
        return [min(start, self._layout.num_rows - size), low, end, skip]

    def _chunk(self, best: Best, queries: Tensor, bounds: Tensor, size: int, cosine: bool) -> Best:
        """One program: the best rows after a chunk of `size` physical rows of each device."""
        enter, layout = self._exchange.enter, self._layout
        start, low, end, skip = enter(bounds)[0].unbind()
        physical = start + torch.arange(size, dtype=torch.int32, device=self._array.device)
        if layout.fields_have_rows:
            physical = physical * layout.parts + layout.fields.index(WEIGHT)
            rows = enter(self._array).index_select(0, physical)
        else:
            if layout.parts > 1:
                pieces = torch.arange(layout.parts, dtype=torch.int32, device=physical.device)
                physical = (physical[:, None] * layout.parts + pieces).view(-1)
            rows = enter(self._array).index_select(0, physical)
            rows = rows.view(-1, layout.record_width)[:, layout.lanes(WEIGHT)]
            rows = numbers_of(layout, WEIGHT, rows)
        first = start * layout.records_per_row
        records = first + torch.arange(len(rows), dtype=torch.int32, device=self._array.device)
        allowed = (records >= low) & (records < end) & (records != skip)
        found = better(
            (enter(best[0]), enter(best[1])),
            enter(queries),
            normalized(rows) if cosine else rows,
            first,
            allowed,
            dots=self._dots,
        )
        return self._exchange.leave(found[0]), self._exchange.leave(found[1])

    def _as_rows(self, scores: Tensor, records: Tensor) -> Best:
        """Side by side what each device found `[P, B, k]`, with its records as rows of this process."""
        devices = len(self._begins)
        begins = host.ints(self._begins)[:, None, None]
        rows = torch.where(records >= 0, (records.long() - self._first) * devices + begins, -1)
        width = devices * records.shape[2]
        return (
            scores.transpose(0, 1).reshape(-1, width),
            rows.transpose(0, 1).reshape(-1, width),
        )


class HostScorer:
    """The search in a table that is an ordinary tensor of the host."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()

    def find(self, search: Search) -> Best:
        """Scores `[B, k]` and numbers (int64) of the best rows."""
        size = chunk_rows(max(1, len(search.queries)), search.queries.shape[1])
        scores, numbers = nothing(1, len(search.queries), search.k)
        for start in range(search.start, search.stop, size):
            here = host.arange(start, min(start + size, search.stop))
            rows = self._weight[start : start + len(here)]
            if search.skip in range(start, start + len(here)):
                here = here[here != search.skip]
                rows = self._weight[here]
            found = search.queries @ (normalized(rows) if search.cosine else rows).T
            values, at = _first_on_host(found, min(search.k, len(here)))
            values = torch.where(values == -torch.inf, _LOWEST, values)
            best = torch.cat([scores, values], 1).sort(dim=1, descending=True, stable=True)
            numbers = torch.cat([numbers, here[at]], 1).gather(1, best.indices)[:, : search.k]
            scores = best.values[:, : search.k]
        return scores, numbers


def _first_on_host(scores: Tensor, k: int) -> Best:
    """The highest k scores of each query, falling, and their positions; of equal ones the first.

    `torch.topk` takes any of equal scores: where one that it left out equals the lowest that it took, the
    query is sorted whole.
    """
    if k == scores.shape[1]:
        best = scores.sort(dim=1, descending=True, stable=True)
        return best.values, best.indices
    values, at = torch.topk(scores, k + 1, dim=1)
    tied = ~(values[:, k] < values[:, k - 1])  # also where they are nan
    at = at[:, :k].sort(dim=1).values
    if bool(tied.any()):
        at[tied] = (
            scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
        )
    best = scores.gather(1, at).sort(dim=1, descending=True, stable=True)
    return best.values, at.gather(1, best.indices)

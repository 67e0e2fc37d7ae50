"""Metrics of training: counts per table, padding, bytes, and the host's time by phase.

Batches are counted where they are prepared, in the thread that prepares them: with an `EmbeddingLoader` up
to `depth` batches ahead of training. All numbers are of this process; counts add up over processes.
Letters: U unique rows, P devices of a process.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import runtime
from ..config.resolved import Resolved
from ..inputs.bags import NO_ID, Bags
from ..program.build import Tables
from ..program.engine import Engine
from ..program.live_rows.live_engine import vocabularies_of
from ..program.norms import NormSampler
from ..program.stack_index import SentBatch
from ..runtime.phases import collect_times

HOST_PHASES = ("parse", "dedup", "exchange", "buffers", "send")
HOT_SHARE = 0.01
"""The fraction of the distinct rows of a batch that count as hot."""

_FLOAT_BYTES = 4
_Key = tuple[str, int]
"""The name of a count, and the number of the table, or -1 for all tables."""


class Metrics:
    """The counters of one TPUEmbedding, from the moment they were switched on.

    Args:
        every: steps between two calls of `callback`, and between two samples of what costs more.
        callback: given the metrics of the last `every` steps.
    """

    def __init__(
        self,
        resolved: Resolved,
        engine: Engine,
        id_bounds: str,
        every: int,
        callback: Callable[[dict[str, Any]], object] | None,
    ) -> None:
        self._tables = resolved.tables
        self._table_of = [feature.table_index for feature in resolved.features]
        self._id_bounds = id_bounds
        self._every = every
        self._callback = callback
        self._engine = engine
        self._devices = engine.placement.local_devices
        self.sampler = NormSampler(every)
        stacks = engine.store.stacks
        self._firsts = [
            torch.tensor(s.first_records, dtype=torch.int32, device="cpu") for s in stacks
        ]
        shapes = [(self._devices, stack.num_records) for stack in stacks]
        self._seen = [torch.zeros(shape, dtype=torch.bool, device="cpu") for shape in shapes]
        self._padded_sizes: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._steps = 0
        self._counts: Counter[_Key] = Counter()
        self._times: dict[str, int] = {}
        self._begin = self._now()
        self._last = self._begin

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Time the phases of a batch, and count it, or that it was refused."""
        times: dict[str, int] = {}
        try:
            with collect_times(times):
                yield
        except Exception:
            with self._lock:
                self._counts["refused", -1] += 1
            raise
        with self._lock:
            self._counts["batches", -1] += 1
            for name, lasted in times.items():
                self._times[name] = self._times.get(name, 0) + lasted

    def observe(self, bags: Sequence[Bags], sent: SentBatch) -> None:
        """Count a training batch.

        Args:
            bags: in feature order.
        """
        found: Counter[_Key] = Counter({("training", -1): 1})
        for table, each in zip(self._table_of, bags, strict=True):
            found["ids", table] += each.num_ids
            found["dropped", table] += each.num_dropped
        for number, (shape, records) in enumerate(zip(sent.shapes, sent.records, strict=True)):
            order, devices = shape.order, self._devices
            for device, of_device in enumerate(records):
                ends = torch.searchsorted(of_device, self._firsts[number]).tolist()
                ends.append(len(of_device))
                for n, table in enumerate(order.stack.table_indices):
                    found["rows", table] += ends[n + 1] - ends[n]
                self._seen[number][device].index_fill_(0, of_device.long(), True)
                found["row positions filled", -1] += len(of_device)
            found["row positions", -1] += shape.num_unique * devices
            found["id positions", -1] += (shape.num_ragged + order.num_fixed_length) * devices
            found["id positions filled", -1] += sum(
                bags[span.feature_index].num_ids for span in (*order.fixed_length, *order.ragged)
            )
            others = shape.num_devices - 1
            row_bytes = order.stack.dim * _FLOAT_BYTES
            found["bytes", -1] += 2 * others * shape.positions_per_device * row_bytes * devices
        with self._lock:
            if self._counts["training", -1] % self._every == 1 % self._every:
                found.update(self._hot_ids(bags))
            self._counts.update(found)
            self._padded_sizes = [
                {
                    "tables": [
                        self._tables[table].name for table in each.order.stack.table_indices
                    ],
                    "rows": each.num_unique,
                    "ids": each.num_ragged,
                    "exchanged": each.positions_per_device,
                }
                for each in sent.shapes
            ]

    def step_done(self) -> None:
        """Count a step, and tell the callback if it is time."""
        self._steps += 1
        if self._callback is not None and self._steps % self._every == 0:
            now = self._now()
            report = self._report(self._last, now)
            self._last = now
            self._callback(report)

    def report(self) -> dict[str, Any]:
        """The metrics since the beginning, as `TPUEmbedding.metrics` describes them."""
        return self._report(self._begin, self._now())

    def _now(self) -> Counter[_Key]:
        """All counters as they are now; two of these subtracted give the counts in between."""
        with self._lock:
            now = self._counts.copy()
            now.update({(f"{name} ns", -1): lasted for name, lasted in self._times.items()})
        now["steps", -1] = self._steps
        now["compiles", -1] = runtime.compile_count()
        now["wait ns", -1] = int(1e9 * runtime.wait_seconds())
        return now

    def _report(self, begin: Counter[_Key], end: Counter[_Key]) -> dict[str, Any]:
        def count(what: str, table: int = -1) -> int:
            return end[what, table] - begin[what, table]

        def share(part: str, whole: str, table: int = -1) -> float | None:
            number = count(whole, table)
            return count(part, table) / number if number else None

        vocabularies = vocabularies_of(self._engine)
        touched, norms = self._rows_touched(), self.sampler.read()
        tables: dict[str, dict[str, Any]] = {}
        for number, table in enumerate(self._tables):
            gradient, row = norms.get(number, (None, None))
            tables[table.name] = {
                "ids": count("ids", number),
                "unique_share": share("rows", "ids", number),
                "rows_touched": touched[number],
                "hot_row_share": share("hot", "sampled", number),
                "out_of_vocabulary": {self._id_bounds: count("dropped", number)},
                "gradient_norm": gradient,
                "row_norm": row,
            }
            if vocabularies is not None and number in vocabularies.maps:
                tables[table.name]["vocabulary"] = vocabularies.report(number)
        batches, steps = max(count("batches"), 1), max(count("steps"), 1)
        filled = {
            kind: share(f"{kind} positions filled", f"{kind} positions") for kind in ("row", "id")
        }
        return {
            "step": self._steps,
            "steps": count("steps"),
            "batches": count("batches"),
            "batches_refused": count("refused"),
            "tables": tables,
            "padded_sizes": self._padded_sizes,
            "padding_share": {
                f"{kind}s": None if part is None else 1 - part for kind, part in filled.items()
            },
            "compiles": count("compiles"),
            "row_kernels": any(stack.uses_kernels for stack in self._engine.store.stacks),
            "host_ms": {name: count(f"{name} ns") / 1e6 / batches for name in HOST_PHASES},
            "device_wait_ms": count("wait ns") / 1e6 / steps,
            "bytes_exchanged": count("bytes"),
        }

    def _rows_touched(self) -> list[int]:
        touched = [0] * len(self._tables)
        for stack, seen in zip(self._engine.store.stacks, self._seen, strict=True):
            ends = [*stack.first_records[1:], stack.num_records]
            for table, first, end in zip(
                stack.table_indices, stack.first_records, ends, strict=True
            ):
                touched[table] = int(seen[:, first:end].sum())
        return touched

    def _hot_ids(self, bags: Sequence[Bags]) -> Counter[_Key]:
        """The number of ids on the most frequent rows of the batch, and the number of all its ids."""
        by_table: dict[int, list[Tensor]] = {}
        for table, each in zip(self._table_of, bags, strict=True):
            by_table.setdefault(table, []).append(each.ids)
        found: Counter[_Key] = Counter()
        for table, parts in by_table.items():
            ids = torch.cat(parts)
            _, counts = torch.unique(ids[ids != NO_ID], return_counts=True)
            hot = counts.sort(descending=True).values[: math.ceil(HOT_SHARE * len(counts))]
            found["hot", table] = int(hot.sum())
            found["sampled", table] = int(counts.sum())
        return found


class MetricsSwitch:
    """The metrics of one module, while they are on.

    Args:
        tables: of the module.
        id_bounds: as for TPUEmbedding.
    """

    def __init__(self, tables: Tables, id_bounds: str) -> None:
        self._tables = tables
        self._id_bounds = id_bounds
        self.current: Metrics | None = None
        """None while nothing is counted."""

    def enable(self, every: int, callback: Callable[[dict[str, Any]], object] | None) -> None:
        """As `TPUEmbedding.enable_metrics`."""
        if not self._tables.on_accelerator:
            raise RuntimeError(
                "enable_metrics: this TPUEmbedding is on the CPU, where nothing is enqueued to be counted"
            )
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"enable_metrics: every must be an int of at least 1, got {every!r}")
        self.disable()
        engine = self._tables.engine
        self.current = Metrics(self._tables.resolved, engine, self._id_bounds, every, callback)
        engine.samplers.append(self.current.sampler)

    def disable(self) -> None:
        """As `TPUEmbedding.disable_metrics`."""
        if self.current is not None:
            self._tables.engine.samplers.remove(self.current.sampler)
            self.current = None

    def report(self) -> dict[str, Any]:
        """As `TPUEmbedding.metrics`."""
        if self.current is None:
            raise RuntimeError("metrics: nothing is counted; call enable_metrics() before training")
        return self.current.report()

"""The module that owns the tables: on an accelerator in an engine, on the CPU as parameters.

What a training step does with them is in `training/steps.py`. Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from . import runtime
from .config.resolved import WEIGHT, resolve, warn_of_equal_names
from .distributed.placement import Strategy
from .inputs.host_values import map_tensors
from .kernels.choice import RowKernels
from .monitoring.metrics import MetricsSwitch
from .optimizers import Optimizer
from .program.build import Tables
from .runtime.modes import for_tables, outside_graph
from .table_state import TableState
from .tables import state_dict as logical_state
from .tables.shard import DeviceRows, HostRows
from .tables.start_values import table_values
from .tables.staying import refuse_to_copy, refuse_to_move
from .tables.table_parameters import TableParameters
from .training.open_steps import OpenSteps


class TableModule(TableState):
    """Tables of a feature configuration, or this process's rows of them: state_dict, freezing, metrics.

    Args:
        feature_config, optimizer, device, sharding, process_group, seed, initialize_tpu_embedding, layout,
            row_kernels, id_bounds: as for TPUEmbedding.
        options: others that must be equal on all processes, by name.
    """

    def __init__(
        self,
        feature_config: Any,
        optimizer: Optimizer | None,
        *,
        device: torch.device | str | None,
        sharding: Strategy,
        process_group: dist.ProcessGroup | None,
        seed: int | None,
        initialize_tpu_embedding: bool,
        layout: runtime.DeviceKind | None,
        row_kernels: RowKernels,
        id_bounds: str,
        options: Mapping[str, object],
    ) -> None:
        super().__init__()
        self.resolved = resolve(feature_config, optimizer)
        warn_of_equal_names(self.resolved)
        self._tables = Tables(
            self.resolved,
            device,
            sharding=sharding,
            process_group=process_group,
            seed=seed,
            initialize_tpu_embedding=initialize_tpu_embedding,
            layout=layout,
            row_kernels=row_kernels,
            options={**options, "id_bounds": id_bounds},
        )
        self.device = self._tables.device
        self.placement = self._tables.placement
        self.id_bounds = id_bounds
        self._metrics = MetricsSwitch(self._tables, id_bounds)
        self._rows: DeviceRows | HostRows | None = None
        if not self.on_accelerator:
            self._make_parameters()

    @property
    def shard(self) -> DeviceRows | HostRows:
        """The rows that this process holds, as the functions of `checkpoint` take them."""
        self.flush()
        if self._rows is None:
            tables = self.resolved.tables
            if self.on_accelerator:
                engine = self._tables.engine
                group, strategy = engine.exchange.group, self.placement.strategy
                self._rows = DeviceRows(
                    tables,
                    engine.store,
                    group,
                    strategy,
                    engine.flush,
                    self._tables.vocabularies,
                    OpenSteps(engine),
                )
            else:
                fields = logical_state.state_keys
                held = [{f: self._held(k) for f, k in fields(table).items()} for table in tables]
                self._rows = HostRows(tables, held, self._tables.vocabularies)
        return self._rows

    @outside_graph
    def to_device(self, value: Any) -> Any:
        """Copy what belongs to this process's samples (labels, dense features) to where activations are.

        Args:
            value: a host tensor or numpy array whose first dimension is that of the samples, or dicts,
                lists and tuples of them.

        Returns:
            The same with tensors on the device. Under SPMD of the samples of all processes, split over the
            devices.

        Raises:
            TypeError: something else is in it.
            RuntimeError: in a worker process of a DataLoader, where the device cannot be used.
        """
        if self.on_accelerator:
            runtime.require_own_process("to_device")
        exchange = self._tables.exchange
        put = exchange.put if exchange is not None else lambda each: each.to(self.device)
        return map_tensors(value, put, "to_device")

    @outside_graph
    def to_host(self, value: Any) -> Any:
        """This process's part of a device tensor, on the host. Under SPMD this ends the step.

        Args:
            value: `[samples, …]`, or dicts, lists and tuples of such.

        Raises:
            TypeError: something else is in it.
        """
        if self.on_accelerator:
            runtime.require_own_process("to_host")
        exchange = self._tables.exchange
        fetch = Tensor.cpu if exchange is None else exchange.fetch
        return map_tensors(value, fetch, "to_host")

    @property
    def frozen_tables(self) -> tuple[str, ...]:
        """The names of the tables that `freeze` holds, in the order of `feature_config`."""
        tables = enumerate(self.resolved.tables)
        return tuple(table.name for number, table in tables if number in self._frozen())

    @outside_graph
    def freeze(self, *tables: str) -> None:
        """Let tables and their slots be as they are from the next `apply_gradients` on.

            embedding.freeze("users")  # train the rest
            embedding.unfreeze("users")

        Lookups go on, but no optimizer, weight decay or momentum moves a row or a slot, and nothing is
        compiled again. Gradients of frozen tables are neither used nor missed; their activations are not
        among the `params` of `EmbeddingOptimizer`. With several processes all must freeze the same tables
        before the same step. What is frozen is not saved: freeze again after a restart.

        `model.requires_grad_(False)` of a module around this one does not reach tables on an XLA device,
        which are no parameters; that of the embedding itself freezes all of them.

        Args:
            tables: names, at least one.

        Raises:
            ValueError: there is no table of that name; none has changed.
        """
        self._set_frozen(self.resolved.positions("freeze", tables), True)

    @outside_graph
    def unfreeze(self, *tables: str) -> None:
        """Let frozen tables train again, with the slots that they had, from the next lookup on.

        A batch that was looked up before leaves them as they are.

        Args:
            tables: names, as for `freeze`, with its errors.
        """
        self._set_frozen(self.resolved.positions("unfreeze", tables), False)

    @outside_graph
    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """`freeze` all tables, or `unfreeze` all.

        Args:
            requires_grad: False freezes.
        """
        self._set_frozen(range(len(self.resolved.tables)), not requires_grad)
        return self

    @for_tables
    def enable_metrics(
        self, *, every: int = 100, callback: Callable[[dict[str, Any]], object] | None = None
    ) -> None:
        """Begin to count, or begin again. It takes a byte a row of the tables on the host.

            embedding.enable_metrics(every=100, callback=JsonLinesWriter("metrics.jsonl"))

        Args:
            every: one training step in `every` is sampled for norms and hot rows. Sampled steps have a
                program of their own, which is compiled at the second step.
            callback: called by `apply_gradients` at every such step with what `metrics` would give, of
                the steps since its last call; JsonLinesWriter, TensorBoardWriter or a function of yours.

        Raises:
            RuntimeError: the device is the CPU.
            ValueError: `every` is not a positive int.
        """
        self._metrics.enable(every, callback)

    def disable_metrics(self) -> None:
        """Stop counting, and forget the counts."""
        self._metrics.disable()

    def metrics(self) -> dict[str, Any]:
        """The counts of this process since `enable_metrics`; see docs/pipelining.md for each entry.

        Raises:
            RuntimeError: `enable_metrics` was not called.
        """
        return self._metrics.report()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Behind `.to`, `.half`, `.cpu` and their like, also those of a module that holds this one.

        Raises:
            RuntimeError: the tables would have to move, or to change their dtype on an XLA device.
        """
        refuse_to_move(self.device, fn)
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> object:
        """Where `copy`, `pickle`, `torch.save` and AveragedModel begin.

        Raises:
            TypeError: the tables are on an XLA device.
        """
        refuse_to_copy(self.device)
        return super().__getstate__()  # type: ignore[no-untyped-call]

    def _frozen(self) -> frozenset[int]:
        """The frozen tables, as positions in `resolved.tables`."""
        if self.on_accelerator:
            return self._tables.frozen
        tables = enumerate(self.resolved.tables)
        return frozenset(n for n, t in tables if not self._held(f"{t.name}.{WEIGHT}").requires_grad)

    def _set_frozen(self, numbers: Iterable[int], frozen: bool) -> None:
        if not self.on_accelerator:
            for number in numbers:
                weight = self._held(f"{self.resolved.tables[number].name}.{WEIGHT}")
                weight.requires_grad_(not frozen)
        elif frozen:
            self._tables.engine.frozen.update(numbers)  # of all that work on these tables
        else:
            self._tables.engine.frozen.difference_update(numbers)

    @for_tables
    def _make_parameters(self) -> None:
        """Tables as parameters and slots as buffers, under the logical checkpoint keys.

        Not by `add_module`, which refuses a table named like an attribute, or with a dot.
        """
        for table in self.resolved.tables:
            self._modules[table.name] = TableParameters(
                {
                    name: value.to(table.dtype_of(name))
                    for name, value in table_values(table, self._tables.seed).items()
                }
            )

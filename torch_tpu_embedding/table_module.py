"""The module that owns the tables: on an accelerator in an engine, on the CPU as parameters.

What a training step does with them is in `embedding.py`. Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import runtime
from .config.declared import TableConfig
from .config.resolved import WEIGHT, resolve
from .distributed.agreement import agree
from .distributed.exchange import Exchange, choose_exchange, warn_of_idle_devices
from .distributed.fingerprint import fingerprint
from .fixed_module import FixedModule
from .inputs.host_values import map_tensors
from .optimizers import Optimizer
from .program import build
from .program.engine import Engine
from .runtime import host
from .runtime.modes import for_tables, outside_graph
from .tables import state_dict as logical_state
from .tables.layout import check_sizes
from .tables.placement import STRATEGIES, Placement, Strategy
from .tables.shard import DeviceRows, HostRows
from .tables.start_values import start_values, table_values
from .tables.table_parameters import TableParameters


class TableModule(FixedModule):
    """Tables of a feature configuration, or this process's rows of them, with their state_dict.

    Args:
        feature_config, optimizer, device, sharding, process_group, seed, initialize_tpu_embedding, layout:
            as for TPUEmbedding.
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
        options: Mapping[str, object],
    ) -> None:
        super().__init__()
        if layout not in (None, "CPU", "TPU"):
            raise ValueError(f"TPUEmbedding: layout must be None, 'CPU' or 'TPU', got {layout!r}")
        if sharding not in STRATEGIES:
            raise ValueError(
                f"TPUEmbedding: sharding must be one of {', '.join(map(repr, STRATEGIES))}, got "
                f"{sharding!r}"
            )
        self.resolved = resolve(feature_config, optimizer)
        self.device = torch.device(device) if device is not None else runtime.device()
        self.layout = layout
        self._seed = seed if seed is not None else host.random_seed()
        self._engine: Engine | None = None
        self._exchange: Exchange | None = None
        self._rows: DeviceRows | HostRows | None = None
        self.placement = Placement()
        """Which rows of each table this process holds."""
        if self.on_accelerator:
            runtime.allow_backward(self.device)
        if self.on_accelerator and not initialize_tpu_embedding:
            self._engine = build.find(self.device, self.resolved)
            self._exchange, self.placement = self._engine.exchange, self._engine.placement
        elif self.on_accelerator:
            self._exchange = choose_exchange(self.device, process_group)
            if device is None:
                warn_of_idle_devices()
            group = self._exchange.group
            self.placement = Placement(
                sharding, group.size, group.rank, self._exchange.local_devices
            )
        elif self.device.type == "cpu":
            if not initialize_tpu_embedding:
                raise ValueError(
                    "TPUEmbedding: initialize_tpu_embedding=False needs an XLA device, got device='cpu'"
                )
            self._make_parameters()
        else:
            raise ValueError(
                f"TPUEmbedding: device must be an XLA device or 'cpu', got {self.device}; on a GPU use "
                "torch.nn.EmbeddingBag or TorchRec"
            )
        if self._exchange is not None:
            options = {"initialize_tpu_embedding": initialize_tpu_embedding, **options}
            self._agree(self._exchange, options)

    def _agree(self, exchange: Exchange, options: Mapping[str, object]) -> None:
        """Make sure that all processes are configured alike."""
        own = {"sharding": self.placement.strategy, "layout": self.layout}
        self._seed, number = agree(exchange.group, self.resolved, {**own, **options}, self._seed)
        if options["initialize_tpu_embedding"]:
            check_sizes(self.resolved.tables, self.placement)
            exchange.group = exchange.group.scoped(f" [embedding {number}]")

    @property
    def on_accelerator(self) -> bool:
        """True on an XLA device (train), False on the CPU (serve)."""
        return runtime.is_accelerated(self.device)

    def _build_engine(self) -> Engine:
        """The engine of an accelerator, created and filled on the first call."""
        runtime.require_own_process("TPUEmbedding")
        if self._engine is None:
            kind = self.layout or runtime.device_kind()
            strategy = self.placement.strategy
            engine = Engine(self.resolved, self.device, kind, self._exchange, strategy)
            tables, ids = self.resolved.tables, engine.store.ids
            several = self.placement.num_shards > 1

            def starts(number: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
                name = tables[number].name
                see = partial(_keep, engine.starts, name) if several else None
                return start_values(tables[number], self._seed, ids(number), see)

            engine.store.fill(starts)
            self._engine = engine
            build.register(self.device, self.resolved, engine)
        return self._engine

    @property
    def engine(self) -> Engine:
        """The built engine (XLA device only)."""
        return self._build_engine()

    @property
    def shard(self) -> DeviceRows | HostRows:
        """The rows that this process holds, as the functions of `checkpoint` take them."""
        self.flush()
        if self._rows is None:
            tables = self.resolved.tables
            if self.on_accelerator:
                engine, group = self.engine, self.engine.exchange.group
                strategy = self.placement.strategy
                self._rows = DeviceRows(tables, engine.store, group, strategy, engine.flush)
            else:
                fields = logical_state.state_keys
                held = [{f: self._held(k) for f, k in fields(table).items()} for table in tables]
                self._rows = HostRows(tables, held)
        return self._rows

    @outside_graph
    def flush(self) -> None:
        """Apply the gradients that pipelined execution holds back, in this object or in another one on the
        same tables; a collective call.

        `state_dict`, `load_state_dict`, checkpoints, the lookup of an inference batch and the end of an
        `EmbeddingLoader` do it themselves. Training batches that wait, or that the loader has ready, read
        their rows first: what they compute does not depend on when others look at the tables.
        """
        if self._engine is not None:
            self._engine.flush()

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
        exchange = self._exchange
        put = exchange.put if exchange is not None else lambda each: each.to(self.device)
        return map_tensors(value, put, "to_device")

    @outside_graph
    def to_host(self, value: Tensor) -> Tensor:
        """This process's part of a device tensor `[samples, …]`; under SPMD this ends the step."""
        if self.on_accelerator:
            runtime.require_own_process("to_host")
        return value.cpu() if self._exchange is None else self._exchange.fetch(value)

    @property
    def embedding_tables(self) -> dict[TableConfig, Tensor]:
        """The tables by their config, `[V, D]` parameters (CPU only).

        Raises:
            RuntimeError: on an XLA device, where a table is no single tensor; use `state_dict`.
        """
        if self.on_accelerator:
            raise RuntimeError(
                "embedding_tables: on an XLA device the tables are not single tensors; read them with "
                "state_dict(), or load that into a TPUEmbedding with device='cpu'"
            )
        return {
            table.config: self._held(f"{table.name}.{WEIGHT}") for table in self.resolved.tables
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load tables and slots after checking every entry; a refused state changes nothing.

        Args:
            state_dict: as `state_dict` gives it: CPU tensors under `<table>.weight` and `<table>.<slot>`,
                whole tables `[V, D]` or the rows that this process holds.
            strict: False loads the entries that fit by name and reports the rest.
            assign: must be False; the values are always copied.

        Returns:
            `missing_keys` and `unexpected_keys`, as `nn.Module.load_state_dict` does.

        Raises:
            RuntimeError: listing every entry that is missing, unexpected or wrong.
        """
        plan = logical_state.plan_load(self.resolved, self.placement, state_dict, "", assign)
        if plan.errors or (strict and (plan.missing or plan.unexpected)):
            raise RuntimeError(plan.message())
        return super().load_state_dict(state_dict, strict)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        self.flush()
        if self.on_accelerator:
            held = logical_state.retrieve(self.resolved, self.engine.store)
        else:
            held = {key: self._held(key) for key in logical_state.all_keys(self.resolved)}
        for key, value in held.items():
            destination[prefix + key] = value if keep_vars else value.detach()
        destination[prefix + logical_state.EXTRA_KEY] = logical_state.extra_state(
            self.resolved, self.placement
        )

    def _load_from_state_dict(
        self,
        state: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        assign = local_metadata.get("assign_to_params_buffers", False)
        plan = logical_state.plan_load(self.resolved, self.placement, state, prefix, assign)
        missing_keys += plan.missing
        unexpected_keys += plan.unexpected
        error_msgs += plan.errors
        if plan.errors:
            return  # torch raises what was reported; these tables have not changed
        self.flush()
        if self.on_accelerator:
            self.engine.store.replace(plan.values)
            return
        with torch.no_grad():
            for table, fields in plan.values.items():
                for field, value in fields.items():
                    self._held(f"{self.resolved.tables[table].name}.{field}").copy_(value)

    def _held(self, key: str) -> Tensor:
        """A table or slot of CPU mode by its checkpoint key."""
        table, _, field = key.rpartition(".")
        held: Tensor = getattr(self._modules[table], field)
        return held

    @for_tables
    def _make_parameters(self) -> None:
        """Tables as parameters and slots as buffers, under the logical checkpoint keys.

        Not by `add_module`, which refuses a table named like an attribute, or with a dot.
        """
        for table in self.resolved.tables:
            self._modules[table.name] = TableParameters(table_values(table, self._seed))


def _keep(starts: dict[str, str], table: str, rows: Tensor) -> None:
    starts[table] = fingerprint(rows)

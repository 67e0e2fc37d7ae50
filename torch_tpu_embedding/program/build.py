"""How a module comes to its tables: agreed on by all processes, and built, or found, on the device."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from .. import runtime
from ..config.resolved import Resolved
from ..config.vocabulary import DynamicVocabulary
from ..distributed.agreement import agree
from ..distributed.exchange import Exchange, choose_exchange, warn_of_idle_devices
from ..distributed.fingerprint import fingerprint
from ..distributed.group import Alone
from ..distributed.placement import STRATEGIES, Placement, Strategy
from ..kernels.choice import RowKernels, on_a_tpu, wants_row_kernels
from ..kernels.self_check import kernels_work
from ..runtime import host
from ..tables.layout import build_stacks
from ..tables.sizes import check_sizes
from ..tables.start_values import start_values
from ..vocabularies.live import LiveVocabularies
from .compiling.engine import CompilingEngine
from .engine import Engine
from .live_rows.live_engine import LiveEngine, vocabularies_of

_Signature = tuple[object, object]
_made: list[tuple[torch.device, _Signature, weakref.ref[Engine | Tables]]] = []
"""Holders of tables, or of those yet to be built, in the order of time."""


class Tables:
    """The tables of one module: what all processes have agreed on, and on an XLA device the engine.

    Args:
        device: None for the default XLA device.
        sharding, process_group, seed, initialize_tpu_embedding, layout, row_kernels: as for TPUEmbedding.
        options: others that must be equal on all processes, by name.

    Raises:
        ValueError: an argument is wrong, or differs between processes.
        RuntimeError: no tables of this configuration are initialised, and these shall not be.
    """

    def __init__(
        self,
        resolved: Resolved,
        device: torch.device | str | None,
        *,
        sharding: Strategy,
        process_group: dist.ProcessGroup | None,
        seed: int | None,
        initialize_tpu_embedding: bool,
        layout: runtime.DeviceKind | None,
        row_kernels: RowKernels = "auto",
        options: Mapping[str, object],
    ) -> None:
        if layout not in (None, "CPU", "TPU"):
            raise ValueError(f"TPUEmbedding: layout must be None, 'CPU' or 'TPU', got {layout!r}")
        if sharding not in STRATEGIES:
            raise ValueError(
                f"TPUEmbedding: sharding must be one of {', '.join(map(repr, STRATEGIES))}, got "
                f"{sharding!r}"
            )
        self.resolved = resolved
        self.device = torch.device(device) if device is not None else runtime.device()
        self.seed = seed if seed is not None else host.random_seed()
        self.placement = Placement()
        self.exchange: Exchange | None = None
        """None on the CPU."""
        self.built: Engine | None = None
        """None before the tables are built, and on the CPU."""
        self._layout = layout
        self._row_kernels = False
        wanted = wants_row_kernels(row_kernels)
        self._host_maps: LiveVocabularies | None = None
        if not self.on_accelerator:
            self._require_cpu(initialize_tpu_embedding)
            if self.dynamic:
                self._host_maps = LiveVocabularies(resolved, self.seed, self.placement)
            return
        packed = [table.name for table in resolved.tables if table.in_bfloat16]
        if packed and runtime.backend() == "torch_tpu":
            raise ValueError(
                f"TPUEmbedding: tables {packed} have dtype=torch.bfloat16, which needs torch_xla, and the "
                "backend is torch_tpu; give them dtype=torch.float32"
            )
        runtime.allow_backward(self.device)
        if not initialize_tpu_embedding:
            self.built = find(self.device, resolved)
            self.exchange, self.placement = self.built.exchange, self.built.placement
        else:
            self.exchange = choose_exchange(self.device, process_group)
            if device is None:
                warn_of_idle_devices()
            group, devices = self.exchange.group, self.exchange.local_devices
            self.placement = Placement(sharding, group.size, group.rank, devices)
        own: dict[str, object] = {"sharding": self.placement.strategy, "layout": layout}
        own["row_kernels"] = wanted
        own["initialize_tpu_embedding"] = initialize_tpu_embedding
        self.seed, number = agree(self.exchange.group, resolved, {**own, **options}, self.seed)
        if initialize_tpu_embedding:
            check_sizes(resolved.tables, self.placement)
            self.exchange.group = self.exchange.group.scoped(f" [embedding {number}]")
            self._row_kernels = wanted and self._kernels_work()
            register(self.device, self.resolved, self)

    def _require_cpu(self, initialize_tpu_embedding: bool) -> None:
        if self.device.type != "cpu":
            raise ValueError(
                f"TPUEmbedding: device must be an XLA device or 'cpu', got {self.device}; on a GPU use "
                "torch.nn.EmbeddingBag or TorchRec"
            )
        if not initialize_tpu_embedding:
            raise ValueError(
                "TPUEmbedding: initialize_tpu_embedding=False needs an XLA device, got device='cpu'"
            )

    @property
    def dynamic(self) -> list[str]:
        """The names of the tables that have a DynamicVocabulary."""
        tables = self.resolved.tables
        return [t.name for t in tables if isinstance(t.config.vocabulary, DynamicVocabulary)]

    @property
    def on_accelerator(self) -> bool:
        """True on an XLA device."""
        return runtime.is_accelerated(self.device)

    @property
    def engine(self) -> Engine:
        """The engine of an XLA device, built if it is not yet."""
        return self.build()

    def build(self) -> Engine:
        """Create and fill the engine on the first call; gives it."""
        runtime.require_own_process("TPUEmbedding")
        if self.built is None:
            kind, strategy = self._kind, self.placement.strategy
            compiles = runtime.compiles_functions() and self.placement.num_devices == 1
            plain = CompilingEngine if compiles else Engine
            made = LiveEngine if self.dynamic else plain
            engine = made(
                self.resolved,
                self.device,
                kind,
                self.exchange,
                strategy,
                self._row_kernels,
                self.seed,
            )
            if isinstance(engine, LiveEngine):
                engine.use(LiveVocabularies(self.resolved, self.seed, self.placement))
            engine.store.fill(partial(self._start_values, engine))
            self.built = engine
            register(self.device, self.resolved, engine)
        return self.built

    @property
    def _kind(self) -> runtime.DeviceKind:
        """The kind of device that the tables are laid out for."""
        return self._layout or runtime.device_kind()

    def _kernels_work(self) -> bool:
        """True if kernels can write the rows; a collective call.

        It belongs to the constructor, as `agree` does: a process may build its tables alone.
        """
        if self._kind != "TPU" or not on_a_tpu():
            return False
        assert self.exchange is not None
        runtime.require_own_process("TPUEmbedding")
        stacks = build_stacks(self.resolved.tables, "TPU", (), self.placement, row_kernels=True)
        return kernels_work(self.exchange, [array for stack in stacks for array in stack.arrays])

    def _start_values(self, engine: Engine, number: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        table = self.resolved.tables[number]
        several = self.placement.num_shards > 1
        see = partial(_keep, engine.starts, table.name) if several else None
        return start_values(table, self.seed, engine.store.ids(number), see)

    @property
    def vocabularies(self) -> LiveVocabularies | None:
        """The maps of the tables that have a DynamicVocabulary; None if none has."""
        if not self.on_accelerator:
            return self._host_maps
        return vocabularies_of(self.engine) if self.dynamic else None

    def find_on_host(self, table: str, ids: Tensor) -> Tensor:
        """The rows of ids `[N]` of a table with a DynamicVocabulary by its map, on the CPU."""
        maps = self.vocabularies
        assert maps is not None
        (number,) = self.resolved.positions("forward", [table])
        return maps.find(number, ids, Alone(), "forward")

    @property
    def frozen(self) -> frozenset[int]:
        """The tables frozen on an XLA device, as positions in `resolved.tables`."""
        return frozenset() if self.built is None else frozenset(self.built.frozen)

    def flush(self) -> None:
        """Apply the updates that any module on these tables holds back."""
        if self.built is not None:
            self.built.flush()


def _keep(starts: dict[str, str], table: str, rows: Tensor) -> None:
    starts[table] = fingerprint(rows)


def register(device: torch.device, resolved: Resolved, made: Engine | Tables) -> None:
    """Remember the tables of an embedding for as long as one uses them."""
    _made[:] = [entry for entry in _made if entry[2]() is not None]
    _made.append((device, _signature(resolved), weakref.ref(made)))


def find(device: torch.device, resolved: Resolved) -> Engine:
    """The tables initialised last on `device` for a configuration equal to this one, built if they are not
    yet.

    Raises:
        RuntimeError: there are none.
    """
    wanted = _signature(resolved)
    others = 0
    for where, signature, reference in reversed(_made):
        made = reference()
        if made is None or where != device:
            continue
        if isinstance(made, Tables) and made.built is not None:
            continue  # its engine is another entry
        if signature == wanted:
            return made.engine if isinstance(made, Tables) else made
        others += 1
    found = (
        f"{others} with another configuration"
        if others
        else "none, for none was made or all are gone"
    )
    raise RuntimeError(
        f"TPUEmbedding(initialize_tpu_embedding=False): no tables of this configuration are "
        f"initialised on {device} (found {found}); make the one that owns them first, with the same "
        "feature_config and optimizers"
    )


def _signature(resolved: Resolved) -> _Signature:
    """The properties in which two configurations agree if they mean the same tables and features."""
    tables = tuple(
        (
            table.name,
            table.vocabulary_size,
            table.dim,
            table.combiner,
            table.optimizer.rule() if table.optimizer is not None else None,
            table.config.quantization_config,
            table.rounding,
            table.config.slot_dtype,
            table.config.padding_idx if table.config.vocabulary else table.padding_row,
            table.config.vocabulary,
        )
        for table in resolved.tables
    )
    features = tuple(
        (feature.name, feature.table_index, feature.max_sequence_length, feature.output_shape)
        for feature in resolved.features
    )
    return tables, features

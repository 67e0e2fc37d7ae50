"""The state of the tables by name: `state_dict`, `load_state_dict`, and the tables as parameters.

Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .config.declared import TableConfig
from .config.resolved import WEIGHT, Resolved
from .distributed.placement import Placement
from .io.warn import warn_caller
from .program.build import Tables
from .runtime.modes import outside_graph
from .tables import state_dict as logical_state
from .training.open_steps import OpenSteps
from .vocabularies.id_maps.id_map import IdMap
from .vocabularies.live import LiveVocabularies
from .vocabularies.map_tensor import packed_map
from .vocabularies.saved_maps import joined, split


class TableState(nn.Module):
    """Tables that are saved and loaded by name, wherever they are: in an engine, or as parameters."""

    resolved: Resolved
    placement: Placement
    """Which rows of each table this process holds."""
    _tables: Tables

    @property
    def on_accelerator(self) -> bool:
        """True on an XLA device (train), False on the CPU (serve)."""
        return self._tables.on_accelerator

    @outside_graph
    def flush(self) -> None:
        """Apply the gradients that pipelined execution holds back, in this object or in another one on the
        same tables; a collective call.

        `state_dict`, `load_state_dict`, checkpoints, the lookup of an inference batch and the end of an
        `EmbeddingLoader` do it themselves. Training batches that wait, or that the loader has ready, read
        their rows first: what they compute does not depend on when others look at the tables.
        """
        self._tables.flush()

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

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        """Tables and slots by their names: `users.weight`, `users.accumulators`, ….

        On an XLA device the values are copies on the host, float32 `[rows, D]` (`[rows, 1]` for a slot of
        the whole row): they stay as they are while training goes on, and take as much memory as the
        tables. With `device="cpu"` they are the parameters and buffers themselves, as in any module.
        Updates that pipelined execution holds back are applied first. With several processes these are
        the rows that this one holds, which `load_state_dict` of as many processes takes back; for another
        number of processes, and for large tables, save a checkpoint. `_extra_state` says which rows it is.

        Args:
            *args: torch's older form of the others, deprecated there.
            destination: a dict to write into; None makes one.
            prefix: put before each name.
            keep_vars: True gives parameters as they are, not detached (`device="cpu"` only).

        Returns:
            A dict name → tensor; `destination`, if that was given.
        """
        return super().state_dict(
            *args, destination=destination, prefix=prefix, keep_vars=keep_vars
        )

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
        updates = None
        if self.on_accelerator:
            store = self._tables.engine.store
            held = logical_state.retrieve(self.resolved, store)
            updates = store.updates if self.resolved.rounds else None
        else:
            held = {key: self._held(key) for key in logical_state.all_keys(self.resolved)}
        for key, value in held.items():
            destination[prefix + key] = value if keep_vars else value.detach()
        for number, key in logical_state.map_keys(self.resolved).items():
            vocabularies = self._tables.vocabularies
            assert vocabularies is not None
            destination[prefix + key] = packed_map(joined(vocabularies.states(number)))
        destination[prefix + logical_state.EXTRA_KEY] = logical_state.extra_state(
            self.resolved, self.placement, updates
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
        engine = self._tables.engine if self.on_accelerator else None
        if engine is not None and (kept := OpenSteps(engine).with_gradients()):
            warn_caller(
                f"load_state_dict: the gradients of {kept} batches, computed from the rows before, are "
                "kept, and the next apply_gradients gives them to the rows loaded now; to drop them, "
                "call embedding.discard()"
            )
        if (vocabularies := self._tables.vocabularies) is not None:
            vocabularies.require_idle("load_state_dict")
            vocabularies.replace(self._maps(vocabularies, plan.maps))
        if engine is not None:
            engine.store.replace(plan.values)
            if plan.updates is not None:
                engine.store.updates = plan.updates
            return
        with torch.no_grad():
            for table, fields in plan.values.items():
                for field, value in fields.items():
                    self._held(f"{self.resolved.tables[table].name}.{field}").copy_(value)

    def _maps(
        self, vocabularies: LiveVocabularies, states: Mapping[int, Mapping[str, Any]]
    ) -> dict[int, list[IdMap]]:
        made = {}
        for number, state in states.items():
            table, rules = self.resolved.tables[number], vocabularies.rules(number)
            try:
                made[number] = split(self.placement, number, table.vocabulary_size, rules, state)
            except ValueError as error:
                raise ValueError(f"table {table.name!r}: {error}") from error
        return made

    def _held(self, key: str) -> Tensor:
        """A table or slot of CPU mode by its checkpoint key."""
        table, _, field = key.rpartition(".")
        held: Tensor = getattr(self._modules[table], field)
        return held

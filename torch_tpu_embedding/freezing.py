"""The part of TPUEmbedding that freezes tables in the middle of training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from .config.resolved import WEIGHT
from .measured_module import MeasuredModule
from .runtime.modes import outside_graph


class FreezableModule(MeasuredModule):
    """Tables of which some may stand still while the others train."""

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
        compiled anew. Gradients of frozen tables are neither used nor missed; their activations are not
        among the `params` of `EmbeddingOptimizer`. With several processes all must freeze the same tables
        before the same step. What is frozen is not saved: freeze again after a restart.

        `model.requires_grad_(False)` of a module around this one does not reach tables on an XLA device,
        which are no parameters; that of the embedding itself freezes all of them.

        Args:
            tables: names, at least one.

        Raises:
            ValueError: there is no table of that name; none has changed.
        """
        self._set_frozen(self._numbers("freeze", tables), True)

    @outside_graph
    def unfreeze(self, *tables: str) -> None:
        """Let frozen tables train again, with the slots that they had, from the next lookup on.

        A batch that was looked up before leaves them as they are. Arguments and errors of `freeze`.
        """
        self._set_frozen(self._numbers("unfreeze", tables), False)

    @outside_graph
    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """`freeze` all tables, or `unfreeze` all."""
        self._set_frozen(range(len(self.resolved.tables)), not requires_grad)
        return self

    def _frozen(self) -> frozenset[int]:
        """The frozen tables, as positions in `resolved.tables`."""
        if self.on_accelerator:
            return frozenset() if self._engine is None else frozenset(self._engine.frozen)
        tables = enumerate(self.resolved.tables)
        return frozenset(n for n, t in tables if not self._held(f"{t.name}.{WEIGHT}").requires_grad)

    def _set_frozen(self, numbers: Iterable[int], frozen: bool) -> None:
        if not self.on_accelerator:
            for number in numbers:
                weight = self._held(f"{self.resolved.tables[number].name}.{WEIGHT}")
                weight.requires_grad_(not frozen)
        elif frozen:
            self.engine.frozen.update(numbers)  # of all that work on these tables
        else:
            self.engine.frozen.difference_update(numbers)

    def _numbers(self, call: str, names: tuple[str, ...]) -> list[int]:
        known = [table.name for table in self.resolved.tables]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(
                f"{call}: {f'no table is named {unknown}' if unknown else 'name the tables'}; the tables "
                f"are {known}, and requires_grad_ is for all of them"
            )
        return [known.index(name) for name in names]

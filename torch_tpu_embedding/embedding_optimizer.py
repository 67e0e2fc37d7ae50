"""EmbeddingOptimizer: the tables' updates as a `torch.optim.Optimizer`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from . import runtime
from .config.learning_rates import finite_rate
from .distributed.agreement import agree_on_step
from .distributed.calls import calling
from .io.warn import warn_caller
from .runtime.modes import outside_graph
from .training.param_group import TableGroup

if TYPE_CHECKING:
    from .embedding import TPUEmbedding


class EmbeddingOptimizer(torch.optim.Optimizer):
    """Drives `TPUEmbedding.apply_gradients` with the protocol of torch optimizers.

    There is one param group per table, with its `name` and its `lr`; schedulers and code that sets
    `group["lr"]` work, without recompiling. Between forward and step a group's `params` are the
    activations of its table's features, whose `.grad` is what the tables will get: a GradScaler, or
    `clip_grad_value_`, acts on them. For the norm of the model's gradient see
    `TPUEmbedding.clip_grad_norm_`.

    A step that a GradScaler skips, in whatever order forward, zero_grad and step are called, changes
    nothing and needs nothing. So does one that you skip, if `zero_grad` comes before the next forward.
    Several processes skip together, but each GradScaler has a scale of its own: docs/good_to_know.md
    shows how these stay equal.

    The update rule and its other settings stay those of the table's optimizer. A table whose learning
    rate is a callable keeps it: its group shows the value read last, and setting it is an error.

    It belongs to its embedding: it cannot be copied or pickled, nor take further groups.

    Args:
        embedding: a TPUEmbedding on an XLA device.

    Raises:
        RuntimeError: the embedding is on the CPU.
        ValueError: a table's learning rate is below 0.
    """

    def __init__(self, embedding: TPUEmbedding) -> None:
        if not embedding.on_accelerator:
            raise RuntimeError(
                "EmbeddingOptimizer: this TPUEmbedding is on the CPU, where tables are plain parameters; "
                "give them to an optimizer of torch, torch.optim.SGD(embedding.parameters(), lr), or "
                "create it without device='cpu'"
            )
        self._embedding = embedding
        self._callables = [
            table.optimizer is not None and callable(table.optimizer.learning_rate)
            for table in embedding.resolved.tables
        ]
        names = [table.name for table in embedding.resolved.tables]
        rates = _not_negative(names, embedding.learning_rates())
        self._shown = rates
        self._checked: list[float] = []
        """The rates that the last update took; none before it."""
        self._step_supports_amp_scaling = True  # a GradScaler lets `step` unscale and skip
        groups = [*map(TableGroup, names, rates, embedding._steps.activations_by_table)]
        self._complete = self._warned = False
        super().__init__(groups, {})
        self._complete = True
        reference = weakref.ref(self)
        embedding._steps.own_rates = lambda: EmbeddingOptimizer._warn_of_own_rates(reference())

    @torch.no_grad()
    @outside_graph
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Apply the gradients of the batch looked up last.

        Args:
            closure: evaluated first, with gradients enabled; its value is returned.

        Raises:
            RuntimeError: no training batch awaits gradients, or backward has not run.
            ValueError: a group's lr is not a finite number of at least 0, or was set though the table's
                learning rate is a callable; or the GradScalers of the processes have different scales.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():  # type: ignore[no-untyped-call]
                result = closure()
        if self._found_inf():
            self._embedding._steps.discard_step()
            return result
        try:
            rates = self._rates()
        except Exception as error:
            processes = self._embedding._tables.engine.exchange.group
            agree_on_step(processes, "apply_gradients", error, "", {})  # raises, on the others too
            raise
        self._embedding.apply_gradients(learning_rates=rates)
        self._show(rates)
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the step, if it was not taken: it is skipped by that.

        Gradients kept by `accumulate_gradients` are dropped. A batch whose gradients are cleared may get
        new ones, or be followed by the next forward, with one warning.

        Args:
            set_to_none: False fills the activations' `.grad` with zeros instead.
        """
        self._embedding._steps.mark_cleared()
        super().zero_grad(set_to_none)

    def _found_inf(self) -> bool:
        """True where a GradScaler that calls `step` has found an inf or nan; else takes its scale off.

        Raises:
            ValueError: the scales differ between processes.
        """
        found = getattr(self, "found_inf", None)
        if found is None:
            return False
        scale: torch.Tensor | None = self.grad_scale  # type: ignore[attr-defined]
        for group in self.param_groups if scale is not None else ():
            for each in group["params"]:
                if each.grad is not None:
                    each.grad.div_(scale)
        self._embedding._steps.end_program()
        runtime.sync()  # what was traced so far runs once
        known = 0.0 if scale is None else float(scale)  # None: `unscale_` has taken it off already
        mine = torch.tensor([float(found), known], dtype=torch.float64, device="cpu")
        with calling("EmbeddingOptimizer.step of a GradScaler"):
            infs, scales = self._embedding._tables.engine.exchange.group.gather(mine).T.tolist()
        if len(set(scales) - {0.0}) > 1:
            shown = ", ".join(
                f"{each:g} on process {rank}" for rank, each in enumerate(scales) if each
            )
            raise ValueError(
                f"EmbeddingOptimizer: the GradScaler's scale is {shown}, so sums of dense gradients would "
                "be wrong; after each scaler.update() give all processes the smallest scale, as "
                "docs/good_to_know.md shows under 'Skipping a step'"
            )
        return any(infs)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only the constructor adds groups.

        Args:
            param_group: in no later call.

        Raises:
            ValueError: at every later call.
        """
        if self._complete:
            raise ValueError(
                "EmbeddingOptimizer: it has one group for each table and takes no other; give other "
                "parameters to an optimizer of their own"
            )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Name and learning rate of each group; slots are in the embedding's own state_dict."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        groups = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.param_groups
        ]
        state: dict[str, Any] = {"state": {}, "param_groups": groups}
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Args:
            state_dict: of an optimizer of the same tables, in the same order.

        Raises:
            ValueError: it is of other tables, or has settings that these groups have not.
        """
        state = {**state_dict}
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state = before(self, state) or state
        saved = state["param_groups"]
        names = [group["name"] for group in self.param_groups]
        if [group.get("name") for group in saved] != names:
            raise ValueError(
                f"EmbeddingOptimizer: the state is of tables {[g.get('name') for g in saved]}, this "
                f"optimizer is of {names}"
            )
        for name, values in zip(names, saved, strict=True):
            TableGroup.check(name, values)
        for group, values in zip(self.param_groups, saved, strict=True):
            group.update(values)
        self._shown = [group["lr"] for group in self.param_groups]
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """Groups without their activations, for those who average gradients over processes.

        `xm.optimizer_step` and Accelerate's optimizers take their gradients from here. Activations are of
        this process's own samples, and `apply_gradients` sums what has to be summed.
        """
        return {"param_groups": [{**group, "params": []} for group in self.param_groups]}

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "EmbeddingOptimizer: it drives one embedding and can be neither copied nor pickled; make "
            "another one, EmbeddingOptimizer(embedding), and give it this one's state_dict()"
        )

    @staticmethod
    def _warn_of_own_rates(optimizer: EmbeddingOptimizer | None) -> None:
        """Warn, once, if an update takes the tables' own rates, and some groups have others."""
        if optimizer is None or optimizer._warned:
            return
        tables = optimizer._embedding.resolved.tables
        others = [
            f"{table.name!r}: {group['lr']} there, {table.optimizer.learning_rate} of the table"
            for table, group in zip(tables, optimizer.param_groups, strict=True)
            if table.optimizer is not None
            and not callable(table.optimizer.learning_rate)
            and group["lr"] != table.optimizer.learning_rate
        ]
        if others:
            optimizer._warned = True
            warn_caller(
                "apply_gradients: the learning rates set on the EmbeddingOptimizer are not heeded "
                f"({'; '.join(others)}); call its step() in place of apply_gradients, or pass "
                "learning_rates=[group['lr'] for group in optimizer.param_groups] (this is said once)"
            )

    def _show(self, rates: list[float]) -> None:
        """Let each group have the rate that its table's last update took."""
        self._shown = self._checked = rates
        for group, rate in zip(self.param_groups, rates, strict=True):
            if group["lr"] is not rate:
                group["lr"] = rate

    def _rates(self) -> list[float]:
        """The checked rates of the groups, the very list of the last update if none has changed."""
        set_now = [group["lr"] for group in self.param_groups]
        are_floats = {*map(type, set_now)} == {float} and not any(self._callables)
        if are_floats and set_now == self._checked:
            return self._checked
        read = self._embedding.learning_rates()
        rates = []
        for number, group in enumerate(self.param_groups):
            if not self._callables[number]:
                rates.append(finite_rate(group["name"], group["lr"]))
                continue
            if group["lr"] != self._shown[number]:
                raise ValueError(
                    f"EmbeddingOptimizer: lr of table {group['name']!r} was set to {group['lr']}, but "
                    "its optimizer's learning_rate is a callable; give that table a number to set it "
                    "here"
                )
            rates.append(read[number])
        return _not_negative([group["name"] for group in self.param_groups], rates)


def _not_negative(tables: Sequence[str], rates: list[float]) -> list[float]:
    for name, rate in zip(tables, rates, strict=True):
        if rate < 0:
            raise ValueError(
                f"EmbeddingOptimizer: the learning rate of table {name!r} must be at least 0, got {rate}; "
                "to climb, turn the sign of the loss"
            )
    return rates

"""The part that all dense optimizers share: groups, numbers, steps, and states that torch.optim loads."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..runtime.modes import for_tables, outside_graph
from ..runtime.torch_xla.held import hold
from .sent_numbers import Number, SentNumbers

_NOT_TAKEN = {
    "foreach": "there is one implementation",
    "fused": "there is one implementation, and XLA fuses it",
    "capturable": "on XLA devices the step counts always lie on the device",
    "differentiable": "a step has no gradient; use torch.optim for one that has",
}


class DenseOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose arithmetic is out of place and whose numbers are in one device vector.

    Subclasses define the numbers and the formula.

    Attributes:
        rates: the hyper-parameters as the device has them.
    """

    rates: SentNumbers
    _sent_names: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # **others takes what is refused, for errors that say why: not for editors and help()
        _, *shown = inspect.signature(cls.__init__).parameters.values()
        named = [each for each in shown if each.kind is not inspect.Parameter.VAR_KEYWORD]
        cls.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], others: dict[str, Any]
    ) -> None:
        for name in others:
            why = _NOT_TAKEN.get(name, "its docstring lists those that are")
            raise TypeError(f"{self._name}: {name!r} is not an argument ({why}); leave it out")
        super().__init__(params, defaults)
        self._connect()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step with the gradients of the parameters that have one.

        Args:
            closure: evaluated first, with gradients enabled; its value is returned.

        Raises:
            ValueError: a hyper-parameter is not a number that the formula can work with.
            RuntimeError: a gradient is sparse, or a parameter complex. Nothing has changed in either case.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():  # type: ignore[no-untyped-call]
                result = closure()
        self._step()
        return result

    @outside_graph
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the parameters.

        Args:
            set_to_none: False fills them with zeros instead.
        """
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for each in group["params"]:
                each.grad = None

    @for_tables
    def _step(self) -> None:
        groups = [self._with_gradients(group) for group in self.param_groups]
        self.send_rates()
        hold(self._written(groups))
        numbers: dict[torch.device, list[Sequence[Number]]] = {}
        for at, (group, parameters) in enumerate(zip(self.param_groups, groups, strict=True)):
            for device, here in _by_device(parameters).items():
                if device not in numbers:
                    numbers[device] = self.rates.on(device)
                self._step_group(group, here, numbers[device][at])

    def send_rates(self) -> None:
        """Send the groups' numbers to the devices where they have changed; `step` does it by itself.

        For those who run a compiled step again, without a trace.

        Raises:
            ValueError: a hyper-parameter is not a number that the formula can work with.
        """
        self.rates.send()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with the defaults for what it does not say.

        Args:
            param_group: its parameters under "params", and values of the constructor's arguments by name.

        Raises:
            TypeError, ValueError: one of its values is wrong; it has not been added.
        """
        for name, why in _NOT_TAKEN.items():
            if param_group.get(name):
                raise TypeError(
                    f"{self._name}: {name!r} is not a key of a group ({why}); leave it out"
                )
        super().add_param_group(param_group)
        try:
            self._numbers(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state that this optimizer or torch.optim's of the same name gave.

        Args:
            state_dict: what `state_dict` of one of these gave.

        Raises:
            ValueError: it has other groups, or is of a differentiable optimizer.
        """
        if any(group.get("differentiable") for group in state_dict["param_groups"]):
            raise ValueError(
                f"{self._name}: the state is of an optimizer with differentiable=True, whose steps have a "
                "gradient; load it into torch.optim's, or set differentiable to False in its param_groups"
            )
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for name in _NOT_TAKEN:
                group.pop(name, None)
            for name, value in self.defaults.items():  # of an older torch
                group.setdefault(name, value)
            shared: dict[tuple[torch.device, float], Tensor] = {}
            for each in group["params"]:
                state = self.state.get(each, {})
                if "step" in state:
                    key = each.device, float(state["step"])
                    if key not in shared:
                        shared[key] = new_count(*key)
                    state["step"] = shared[key]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "rates" not in self.__dict__:  # a copy, or one that was pickled
            self._connect()

    def _connect(self) -> None:
        self.rates = SentNumbers(
            self._sent_names,
            lambda: [self._numbers(group) for group in self.param_groups],
            lambda: tuple(self._structure(group) for group in self.param_groups),
        )
        self.register_state_dict_post_hook(_with_own_counts, prepend=True)

    @abstractmethod
    def _numbers(self, group: dict[str, Any]) -> list[float]:
        """The numbers of the formula, from the group's values; raises ValueError for wrong ones."""

    @abstractmethod
    def _structure(self, group: dict[str, Any]) -> tuple[object, ...]:
        """The decisions about the formula's terms, from the group's values."""

    @abstractmethod
    def _step_group(
        self, group: dict[str, Any], parameters: list[Tensor], numbers: Sequence[Number]
    ) -> None:
        """Update parameters of one group and one device, all of which have a gradient."""

    @property
    def _name(self) -> str:
        return f"dense_optimizers.{type(self).__name__}"

    def _number(
        self,
        group: dict[str, Any],
        name: str,
        value: object,
        low: float = 0.0,
        below: float = math.inf,
    ) -> float:
        """A hyper-parameter of a group as a float: at least `low`, less than `below`."""
        on_device = isinstance(value, Tensor) and value.device.type != "cpu"
        try:
            found = math.nan if on_device or isinstance(value, str) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            found = math.nan
        if low <= found < below and found != -math.inf:
            return found
        at = next((n for n, each in enumerate(self.param_groups) if each is group), 0)
        bounds = [f"of at least {low:g}"] if low > -math.inf else []
        bounds += [f"below {below:g}"] if below < math.inf else []
        shown = "a tensor on a device, which a number need not be: a new one compiles nothing"
        raise ValueError(
            f"{self._name}: {name} of param group {at} must be a finite number"
            + "".join(f" {each}" for each in [" and ".join(bounds)] if each)
            + f", got {shown if on_device else repr(value)}"
        )

    def _with_gradients(self, group: dict[str, Any]) -> list[Tensor]:
        found = [each for each in group["params"] if each.grad is not None]
        for each in found:
            if each.grad.is_sparse or each.is_complex():
                sparse = each.grad.is_sparse
                what = (
                    "the gradient of a parameter is sparse" if sparse else "a parameter is complex"
                )
                raise RuntimeError(
                    f"{self._name}: {what} (shape {[*each.shape]}); give that parameter to an optimizer of "
                    "torch.optim, and large tables to TPUEmbedding"
                )
        return found

    def _written(self, groups: list[list[Tensor]]) -> Iterator[Tensor]:
        """The tensors that a step of these parameters gives new values."""
        for parameters in groups:
            yield from parameters
        for state in self.state.values():
            yield from (each for each in state.values() if isinstance(each, Tensor))

    def _gradient(self, group: dict[str, Any], parameter: Tensor) -> Tensor:
        assert parameter.grad is not None
        return -parameter.grad if group["maximize"] else parameter.grad

    def _count_step(self, parameters: list[Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
        """Count a step of these parameters; gives each new count, and the parameters that have it.

        Parameters that have taken the same steps share one count.
        """
        holders: dict[int, int] = {}
        for state in self.state.values():
            if "step" in state:
                holders[id(state["step"])] = holders.get(id(state["step"]), 0) + 1
        together: dict[int, list[Tensor]] = {}
        for each in parameters:
            together.setdefault(id(self.state[each]["step"]), []).append(each)
        found = []
        for key, members in together.items():
            step = self.state[members[0]]["step"]
            count = step + 1.0
            if len(members) == holders[key]:
                step.copy_(count)
            else:  # the others stay behind
                for each in members:
                    self.state[each]["step"] = count
            found.append((count, members))
        return found


def new_count(device: torch.device, value: float = 0.0) -> Tensor:
    """A count of steps."""
    return torch.full((), value, dtype=torch.float32, device=device)


def _with_own_counts(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict in which each parameter has a step count of its own, on the host, as in torch.optim."""
    read: dict[int, float] = {}
    found = {}
    for key, of_one in state["state"].items():
        step = of_one.get("step")
        if step is not None:
            if id(step) not in read:
                read[id(step)] = float(step)
            own = torch.tensor(read[id(step)], dtype=torch.float32, device="cpu")
            of_one = {**of_one, "step": own}
        found[key] = of_one
    return {**state, "state": found}


def _by_device(parameters: list[Tensor]) -> dict[torch.device, list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = {}
    for each in parameters:
        found.setdefault(each.device, []).append(each)
    return found

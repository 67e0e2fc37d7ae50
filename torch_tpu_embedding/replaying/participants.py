"""The modules and optimizers that take part in a step, with all of their parts that decide its program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, is_, itemgetter, methodcaller
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as of_modules
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import optimizer as of_optimizers
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from ..dense_optimizers.base import DenseOptimizer
from ..program.engine import Engine
from ..runtime.torch_xla import programs

_PLAIN = (bool, int, float, str)
_VALUES = methodcaller("values")
_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
_HOOKS_OF_MODULE = attrgetter(*_HOOKS)
_HOOKS_OF_MODULES = attrgetter(*(f"_global{each}" for each in _HOOKS))
_HOOKS_OF_OPTIMIZER = attrgetter("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_HOOKS_OF_OPTIMIZERS = attrgetter("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
_HOOKS_OF_TENSOR = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
_NO_HOOKS: Mapping[int, object] = {}
_OF_STATES = frozenset(
    name for name in vars(nn.Module()) if "state_dict" in name or "persistent" in name
)
"""Attributes of every module that have to do with saving and loading alone."""
_FORM = attrgetter("shape", "dtype")


class Participants:
    """Modules and optimizers, found by watching steps that are traced.

    Args:
        engine: of the tables, whose arrays belong to the state.
        modules: those that the user names, because nobody calls them.
        table_optimizer: the type of the optimizers that only drive the tables.
        tables: the type of the modules that hold tables.
    """

    def __init__(
        self,
        engine: Engine,
        modules: Iterable[nn.Module],
        table_optimizer: type[Optimizer],
        tables: type[nn.Module],
    ) -> None:
        self._engine = engine
        self._skipped = tables
        self._table_optimizer = table_optimizer
        self._roots: list[nn.Module] = []
        self.modules: list[nn.Module] = []
        """All of them, those within others too."""
        self.parameters: list[nn.Parameter] = []
        self.optimizers: list[Optimizer] = []
        self.table_optimizers: list[Optimizer] = []
        self._attributes: list[dict[str, Any]] = []
        """The `__dict__` of each module."""
        self._readers: list[Callable[[dict[str, Any]], tuple[object, ...]]] = []
        """For each module, a function that gives those of its attributes that a program may depend on."""
        self._hooks: list[Mapping[int, object]] = []
        """The dicts in which modules have their hooks."""
        self._contents: list[Mapping[str, object]] = []
        """Parameters, buffers and modules of each module."""
        self.replaced = 0
        """How often a module was found to have other attributes than were known of it."""
        self._by_steps: dict[int, int] = {}
        for each in modules:
            self._add_module(each)

    @property
    def count(self) -> int:
        """Grows when a step shows another participant."""
        return len(self._roots) + len(self.optimizers) + len(self.table_optimizers)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note the modules that are called in this context, and the optimizers that take a step."""
        hooks = [
            register_module_forward_pre_hook(lambda module, _: self._add_module(module)),
            register_optimizer_step_pre_hook(lambda optimizer, *_: self._add_optimizer(optimizer)),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.refresh()

    def refresh(self) -> None:
        """List modules and parameters again: a module may have got other parts."""
        self.modules = [*dict.fromkeys(each for root in self._roots for each in root.modules())]
        groups = [group for each in self.optimizers for group in each.param_groups]
        found = [each for module in self.modules for each in module._parameters.values()]
        found += [each for group in groups for each in group["params"]]
        self.parameters = [*{id(each): each for each in found if each is not None}.values()]
        self._attributes = [*map(vars, self.modules)]
        self._readers = [
            itemgetter(*(name for name in each if name not in _OF_STATES))
            for each in self._attributes
        ]
        self._hooks = [*chain.from_iterable(map(_HOOKS_OF_MODULE, self.modules))]
        self._contents = [
            part
            for each in self.modules
            for part in (each._parameters, each._buffers, each._modules)
        ]

    def _add_module(self, module: nn.Module) -> None:
        if isinstance(module, self._skipped) or any(module is each for each in self.modules):
            return
        self._roots.append(module)
        self.refresh()

    def _add_optimizer(self, optimizer: Optimizer) -> None:
        own = isinstance(optimizer, self._table_optimizer)
        known = self.table_optimizers if own else self.optimizers
        if not any(optimizer is each for each in known):
            known.append(optimizer)

    def on_host(self) -> list[Tensor]:
        """The host tensors among parts and settings, each once."""
        found = (*self.parts(), *self.settings())
        tensors = {id(each): each for each in found if isinstance(each, Tensor)}
        return [each for each in tensors.values() if each.device.type == "cpu"]

    def changes(self, on_host: Sequence[Tensor]) -> list[int]:
        """How often each of some host tensors was changed in place, but for the changes by steps."""
        return [each._version - self._by_steps.get(id(each), 0) for each in on_host]

    def note_step(self, on_host: Sequence[Tensor], changes: Sequence[int]) -> None:
        """Take note that a step alone has changed host tensors since `changes` gave these counts."""
        for each, count in zip(on_host, changes, strict=True):
            self._by_steps[id(each)] = each._version - count

    def parts(self) -> list[object]:
        """All objects and values of which a change may make another program: the tables' arrays, attributes
        and tensors of modules, and the optimizers' parameters and states."""
        found: list[object] = [*chain.from_iterable(self._engine.store.arrays)]
        try:
            if not all(map(is_, map(vars, self.modules), self._attributes)):
                raise KeyError
            read = [read(of) for read, of in zip(self._readers, self._attributes, strict=True)]
        except KeyError:  # a module has lost an attribute, or has all in another dict
            self.replaced += 1
            self.refresh()
            return self.parts()
        found += chain.from_iterable(read)
        found += chain.from_iterable(map(_VALUES, self._contents))
        found += map(type, self.modules)
        found += self._all_hooks()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                found += (len(group["params"]), *group["params"])
            found += optimizer.state
            found += chain.from_iterable(map(_VALUES, optimizer.state.values()))
        return found

    def sizes(self) -> list[int]:
        """How many attributes each module has."""
        return [*map(len, self._attributes)]

    def _all_hooks(self) -> list[object]:
        """How many hooks each module, parameter and optimizer has, then the hooks; empty without any."""
        others = [*_HOOKS_OF_MODULES(of_modules), *_HOOKS_OF_OPTIMIZERS(of_optimizers)]
        for optimizer in (*self.optimizers, *self.table_optimizers):
            others += _HOOKS_OF_OPTIMIZER(optimizer)
        others += chain.from_iterable(map(_HOOKS_OF_TENSOR, self.parameters))
        if not any(self._hooks) and not any(others):
            return []
        hooks = [each or _NO_HOOKS for each in (*self._hooks, *others)]
        return [*map(len, hooks), *chain.from_iterable(map(_VALUES, hooks))]

    def settings(self) -> list[object]:
        """The hyper-parameters of the optimizers, whose values are in the program."""
        found: list[object] = []
        for optimizer in self.optimizers:
            sent: frozenset[str] = frozenset()
            if isinstance(optimizer, DenseOptimizer):
                sent = optimizer.rates.names
                found.append(optimizer.rates.structure())
            for group in optimizer.param_groups:
                found += [v for key, v in group.items() if key != "params" and key not in sent]
        return found

    def rates_set(self) -> list[object]:
        """All numbers that a schedule might set, to see that the step itself does not."""
        dense = [group for each in self.optimizers for group in each.param_groups]
        tables = [group for each in self.table_optimizers for group in each.param_groups]
        found = [v for group in dense for key, v in group.items() if key != "params"]
        return [*found, *(_as_shown(group["lr"]) for group in tables)]

    def send_numbers(self) -> None:
        """Bring what `dense_optimizers` have on the device up to their groups' values.

        Raises:
            ValueError: one of these is wrong.
        """
        for each in self._with_sent_numbers():
            each.send_rates()

    def sent_numbers(self) -> list[Tensor]:
        """The vectors in which `dense_optimizers` have their hyper-parameters on the device."""
        sent = [each.rates.vectors().values() for each in self._with_sent_numbers()]
        return [vector for of_one in sent for vector in of_one]

    def _with_sent_numbers(self) -> list[DenseOptimizer]:
        return [each for each in self.optimizers if isinstance(each, DenseOptimizer)]


@dataclass(frozen=True)
class Snapshot:
    """The participants' parts at one moment, to be compared with those of a later one."""

    parts: list[object]
    settings: list[object]
    state: list[Tensor]
    """The device tensors among them, each once."""
    forms: list[object]
    """Their shapes and dtypes."""
    on_host: list[Tensor]
    """The tensors of the host among them, each once."""
    changes: list[int]
    """How often each of these had been changed, but for the changes by steps."""
    sizes: list[int]
    """How many attributes each module had."""
    replaced: int

    def change(self, participants: Participants) -> str | None:
        """The way in which the participants have changed since; None if they have not."""
        if not same(participants.settings(), self.settings):
            return "a hyper-parameter of an optimizer has changed"
        if participants.changes(self.on_host) != self.changes:
            return "a tensor of the host has been changed"
        now = participants.parts()
        if participants.replaced != self.replaced:
            return "a module has got other attributes"
        if participants.sizes() != self.sizes:
            return "a module has got or lost an attribute"
        if not same(now, self.parts):
            return _changed_part(participants, now, self.parts)
        if forms_of(self.state) != self.forms:
            return (
                "the shape or dtype of a parameter, or of another tensor of the state, has changed"
            )
        return None


def snapshot(participants: Participants) -> Snapshot:
    """The participants as they are now."""
    participants.refresh()
    parts, settings = participants.parts(), participants.settings()
    tensors = {id(each): each for each in (*parts, *settings) if isinstance(each, Tensor)}
    state = [each for each in tensors.values() if programs.is_on_device(each)]
    on_host = participants.on_host()
    changes = participants.changes(on_host)
    return Snapshot(
        parts,
        settings,
        state,
        forms_of(state),
        on_host,
        changes,
        participants.sizes(),
        participants.replaced,
    )


def forms_of(tensors: Sequence[Tensor]) -> list[object]:
    """The shape and dtype of each tensor."""
    return [*map(_FORM, tensors)]


def same(now: Sequence[object], then: Sequence[object]) -> bool:
    """True if two lists hold the same objects, or equal numbers and texts in their place."""
    if len(now) != len(then):
        return False
    if all(map(is_, now, then)):
        return True
    return all(a is b or _equal(a, b) for a, b in zip(now, then, strict=True))


def _as_shown(rate: Any) -> Any:
    """A table's rate as its group shows it after a step: a float, whatever kind of number was set."""
    if isinstance(rate, Tensor) and programs.is_on_device(rate):
        return rate
    try:
        return float(rate)
    except (TypeError, ValueError):  # the step tells what is wrong with it
        return rate


def _equal(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple) and isinstance(other, tuple):  # betas
        return len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, _PLAIN) and one == other


def _changed_part(participants: Participants, now: Sequence[object], then: Sequence[object]) -> str:
    """A sentence about what differs, with the attribute's name where there is one."""
    if len(now) == len(then):
        changed = next(a for a, b in zip(now, then, strict=True) if a is not b and not _equal(a, b))
        for module in participants.modules:
            for name, value in module.__dict__.items():
                if value is changed and isinstance(value, _PLAIN):
                    return f"attribute {name!r} of a {type(module).__name__} has changed"
    return "modules, parameters, hooks or optimizer states have been replaced"

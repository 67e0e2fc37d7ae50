"""One call of a replayed step: its arguments, and the key under which its program is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import runtime
from ..batch.program_shape import StackOrder
from ..program.stack_index import SentBatch
from ..runtime.torch_xla import programs
from .participants import Participants
from .watch import CannotReplayError

Key = tuple[object, ...]
_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
_MOST_ORDERS = 256
# Lists of these are made without bytecode for each: they are read at every step.
_TRAINING, _REQUIRES_GRAD, _GRAD = map(attrgetter, ("training", "requires_grad", "grad"))


@dataclass
class Call:
    """The arguments of a call, flat."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    leaves: list[Any]
    structure: Any

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return [each for each in self.leaves if isinstance(each, Tensor)]


def call_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Flatten the arguments of a call."""
    if not kwargs and all(type(each) is Tensor for each in args):
        return Call(args, kwargs, [*args], len(args))
    leaves, structure = pytree.tree_flatten((args, kwargs))
    return Call(args, kwargs, leaves, structure)


class Keys:
    """Makes the key of a call: all that can be told before the step and decides which program it is."""

    def __init__(self, participants: Participants) -> None:
        self._participants = participants
        self._numbers: dict[StackOrder, int] = {}
        self._known: dict[int, tuple[StackOrder, int]] = {}

    def of(self, call: Call, batch: SentBatch, *others: object) -> Key:
        """The key of a call with the batch that it will look up.

        Raises:
            CannotReplayError: an argument is of a kind whose content no key can tell.
        """
        people = self._participants
        return (
            call.structure,
            self._arguments(call.leaves),
            self._sizes(batch),
            tuple(map(_TRAINING, people.modules)),
            tuple(map(_REQUIRES_GRAD, people.parameters)),
            tuple(map(is_, map(_GRAD, people.parameters), repeat(None))),
            _modes(),
            others,
        )

    def _arguments(self, leaves: Sequence[Any]) -> Key:
        found: list[object] = []
        first: dict[int, int] = {}
        for number, each in enumerate(leaves):
            if isinstance(each, Tensor):
                found += (first.setdefault(id(each), number), *_form(each))
            elif isinstance(each, _PLAIN):
                found += (type(each), each)
            else:
                raise CannotReplayError(
                    f"an argument is a {type(each).__name__}, whose content may change unseen; pass "
                    "tensors of the device, numbers, texts, and dicts, lists or tuples of them"
                )
        return tuple(found)

    def _sizes(self, batch: SentBatch) -> Key:
        return tuple(
            [
                (self._number(s.order), s.num_unique, s.num_ragged, s.positions_per_device)
                for s in batch.shapes
            ]
        )

    def _number(self, order: StackOrder) -> int:
        """A number for an order of features, equal for equal ones; to hash one takes long."""
        known = self._known.get(id(order))
        if known is None:
            if len(self._known) >= _MOST_ORDERS:
                self._known.clear()
            known = order, self._numbers.setdefault(order, len(self._numbers))
            self._known[id(order)] = known
        return known[1]


def _form(value: Tensor) -> Key:
    if not programs.is_on_device(value):
        raise CannotReplayError(
            "an argument is a tensor of the host; send it before the step, by embedding.to_device"
        )
    if value.requires_grad:
        raise CannotReplayError("an argument requires grad; make it a parameter of a module")
    shared = programs.sharding(value) if runtime.is_spmd() else ""
    return value.shape, value.dtype, shared


def _modes() -> Key:
    """The switches of torch that change what a function traces."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("xla"),
        torch.get_autocast_dtype("xla"),
        torch.get_default_dtype(),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
    )

"""Signs that a step does something on the host which a run of its program would leave out."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from ..runtime.torch_xla import programs
from .participants import Participants, same


class CannotReplayError(Exception):
    """A step that cannot be replayed as it is; the message says why, as the end of a sentence."""


class Watch:
    """The host's state before a traced step, to be compared with that after it.

    Args:
        on_host: the host tensors of modules and optimizers (step counts).
    """

    def __init__(self, participants: Participants, on_host: Sequence[Tensor]) -> None:
        self._participants = participants
        self._on_host = on_host
        self._values = [each.detach().clone() for each in on_host]
        self._rates = participants.rates_set()
        self._random = _random_states()
        self._reads = programs.reads()
        self._ended = programs.ended_steps()

    def check(self) -> None:
        """Raise CannotReplayError if the step ends programs or sets rates itself."""
        if programs.ended_steps() != self._ended:
            raise CannotReplayError(
                "it ends the step itself (runtime.sync, torch_xla.sync, or an exchange between processes "
                "on the CPU), so that it is several programs"
            )
        if not same(self._participants.rates_set(), self._rates):
            raise CannotReplayError(
                "it changes a hyper-parameter of an optimizer; step schedulers outside of it"
            )

    def impurity(self) -> str | None:
        """A reason to trust no trace of this step, which another thread may have caused; None if there is
        none."""
        if programs.reads() != self._reads:
            return (
                "a value is read from the device in it (.item(), float(), print, .cpu()), which a replayed "
                "step does not do; return the tensor and read it outside"
            )
        if not all(map(_equal, _random_states(), self._random)):
            return (
                "it draws random numbers on the host (random, numpy or torch's CPU generator), which a "
                "replayed step does not do; draw them outside and pass them, or draw on the device"
            )
        return None

    def counters(self) -> list[Tensor]:
        """The host tensors that the step has counted up by one.

        Raises:
            CannotReplayError: it has changed one otherwise.
        """
        found = []
        for each, before in zip(self._on_host, self._values, strict=True):
            if torch.equal(each, before):
                continue
            if each.shape != before.shape or not torch.equal(each, before + 1):
                raise CannotReplayError(
                    "an optimizer or module changes a tensor of the host in it, by more than a count of one"
                )
            found.append(each)
        return found


def _random_states() -> list[object]:
    found: list[object] = [torch.get_rng_state(), random.getstate()]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        state = numpy.random.get_state(legacy=False)
        found += [state["state"]["key"].tobytes(), state["state"]["pos"]]
    return found


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one == other

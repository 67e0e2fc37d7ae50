"""A program that is kept for its key and how far it is trusted, and the effort spent on programs so far."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from .calls import Key
from .program import Program


class ReplayError(RuntimeError):
    """A traced step is another program than the one that was run in its place since the last check."""


def failed_check(replayed: int, why: str) -> ReplayError:
    """The error of a check that has found another program than the one replayed before it."""
    return ReplayError(
        f"replay: the step was traced again as a check, and {why}. The last {replayed} replayed steps "
        "may be wrong: go back to a checkpoint from before them. The step's function has to do the "
        "same operations whenever it is called with inputs of the same shapes; what depends on a "
        "counter, on the clock or on a number that it reads cannot be replayed (docs/replay.md). Later "
        "calls of this object are traced"
    )


@dataclass
class Kept:
    """A program, and how far it is trusted."""

    program: Program | None = None
    agreed: int = 0
    """Traces in a row that gave this program."""
    due: int = 0
    """Steps that may be replayed before the next trace."""
    replayed: int = 0
    """Steps replayed since the last trace."""
    strikes: int = 0
    """Traces in a row that could not be replayed at all."""
    differed: int = 0
    """Traces that gave another program than the one before, since it was trusted last."""


class KeptPrograms(OrderedDict[Key, Kept]):
    """The programs by the keys of their calls; the one used last stands last."""

    _MOST = 32

    def of(self, key: Key) -> Kept:
        """The program of a key, or a place for it; the one that was not used for longest may go."""
        kept = self.get(key)
        if kept is None:
            kept = self[key] = Kept()
        self.move_to_end(key)
        if len(self) > self._MOST:
            self.popitem(last=False)
        return kept


class Effort:
    """Sees to it that a step which is hardly ever replayed costs what it costs without replay.

    A trace that is kept takes many times the time of a plain one, which replays have to bring in. Where
    they do not, no trace is kept for a while, and then for longer and longer.
    """

    _OF_A_TRACE = 16
    _MOST = 80 * _OF_A_TRACE
    _FIRST_REST, _LONGEST_REST = 256, 1 << 16

    def __init__(self) -> None:
        self._spent = 0
        self._rest = 0
        self._next_rest = self._FIRST_REST

    def traced(self) -> bool:
        """Note a trace that was kept and is not trusted; true if that was one too many."""
        self._spent += self._OF_A_TRACE
        return self._spent >= self._MOST

    def replayed(self) -> None:
        """Note a replay."""
        if self._spent:
            self._spent -= 1

    def rest(self, tries: int) -> None:
        """Keep no trace for a while, and then at most `tries` before the next rest."""
        if self._rest:
            return
        self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, self._LONGEST_REST)
        self._spent = self._MOST - tries * self._OF_A_TRACE

    def rests(self) -> bool:
        """True for a call in which no trace is to be kept."""
        self._rest -= self._rest > 0
        return self._rest > 0

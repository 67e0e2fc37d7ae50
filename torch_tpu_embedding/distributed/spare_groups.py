"""Groups of the same processes for threads, which must not mingle their calls with those of training.

A group is a socket to each other process and some threads, so one that is done with is used again.
"""

from __future__ import annotations

from .calls import calling
from .group import HostGroup


class SpareGroups:
    """Clones of one group, numbered alike in all processes."""

    def __init__(self, group: HostGroup) -> None:
        self._group = group
        self._free: dict[int, HostGroup] = {}
        self._made = 0

    def borrow(self) -> tuple[int, HostGroup]:
        """A number and its group, which nobody uses in any process; a collective call.

        Threads of the processes do not end at one time, so they tell which groups they have.
        """
        with calling("the start of an EmbeddingLoader"):
            told = self._group.gather_objects([*self._free])
            common = set(told[0]).intersection(*told)
            if common:
                number = min(common)
                return number, self._free.pop(number)
            self._made += 1
            return self._made, self._group.clone()

    def give_back(self, number: int, group: HostGroup) -> None:
        """Let another thread have the group: its processes have all made the same calls."""
        self._free[number] = group

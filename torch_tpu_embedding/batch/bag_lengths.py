"""The choice between fixed-length and ragged lookups of a feature: from the data, agreed upon by all
processes.

Bags of any length are summed by a scatter of the rows of all their ids, and each id fetches its gradient
from its bag. Where every bag has H positions, as in multi-hot features and truncated histories, a sum over
`[H, B]` replaces the scatter, and a broadcast the fetch. A feature whose first batch fills nearly all H · B
positions is *fixed-length* until a longer bag comes; from then on it is ragged. So it costs one more
program at the most. A position that later batches leave empty costs as much as a ragged id, and ragged ids
are padded to the most there were so far.

Letters: B batch, F features, H ids of a bag of fixed length, N lookups, S processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..inputs.at_once.bags import ONE_HOT, AtOnceBags, OneIdBags
from ..inputs.bags import NO_ID, Bags
from ..runtime import host

logger = logging.getLogger(__name__)

_MOST_POSITIONS_AN_ID = 9 / 8
"""The most positions for each id of a fixed-length feature; ragged ids are padded to about as many."""
_RAGGED = 0


class BagLengths:
    """The length of the bags of each feature, as far as it is known.

    Args:
        names: of the features, in feature order.
        may_have_one_length: per feature, False if its lookups are always ragged.
    """

    def __init__(self, names: Sequence[str], may_have_one_length: Sequence[bool]) -> None:
        self._names = names
        self._lengths: list[int | None] = [None if may else _RAGGED for may in may_have_one_length]

    def those_of(self, bags: AtOnceBags) -> tuple[int, ...] | None:
        """H of each fixed-length feature, 0 for all others, if `arrange` gives each bag just as many
        positions as it has ids; None if one gets others, or is not decided yet."""
        if isinstance(bags, OneIdBags):
            return bags.lengths
        found = []
        for given, known in zip(bags.lengths, self._lengths, strict=True):
            if given not in (ONE_HOT, known) and known != _RAGGED:
                return None
            found.append(ONE_HOT if given == ONE_HOT or known is None else known)
        return tuple(found)

    def arrange(self, bags: Sequence[Bags]) -> Sequence[Bags]:
        """The bags of one device, where the bags of fixed-length features have H positions each."""
        if isinstance(bags, OneIdBags):
            return bags
        return [
            fix_length(each, length) if length and each.bag is not None else each
            for each, length in zip(bags, self._lengths, strict=True)
        ]

    def observe(self, parts: Sequence[Sequence[Bags]]) -> Tensor:
        """The longest bag, the number of ids and the number of bags of each feature, in this process's
        batch.

        Args:
            parts: for each device of this process the bags that `arrange` returned.

        Returns:
            `[F, 3]`; zeros for features that are decided, and for all features if `parts` is empty.
        """
        seen = [[0, 0, 0] for _ in self._lengths]
        for part in parts:
            if isinstance(part, OneIdBags):
                continue
            for of_feature, length, each in zip(seen, self._lengths, part, strict=True):
                if length == _RAGGED or each.bag is None or not each.ids.numel():
                    continue  # bags that are arranged are not longer than H
                of_feature[0] = max(of_feature[0], int(_lengths(each).max()))
                of_feature[1] += each.ids.numel()
                of_feature[2] += math.prod(each.shape)
        return host.ints(seen)

    def decide(self, seen: Tensor) -> bool:
        """Choose the length of each feature; returns True if `arrange` gives something else than before.

        Args:
            seen: `[S, F, 3]`, the counts that `observe` gave in each process.
        """
        before = [length or _RAGGED for length in self._lengths]
        most = seen[:, :, 0].amax(0).tolist()
        _, ids, bags = seen.sum(0).T.tolist()
        for number, (length, longest) in enumerate(zip(self._lengths, most, strict=True)):
            if length is None and ids[number]:
                fits = longest * bags[number] <= _MOST_POSITIONS_AN_ID * ids[number]
                self._lengths[number] = longest if fits else _RAGGED
            elif length and longest > length:
                text = (
                    "feature %r has a bag of %d ids after bags of %d: its program is compiled again"
                )
                logger.info(text, self._names[number], longest, length)
                self._lengths[number] = _RAGGED
        return before != [length or _RAGGED for length in self._lengths]

    def adopt(self, other: BagLengths) -> None:
        """Learn from `other`, of the same features, so that its programs are not compiled again."""
        for number, its in enumerate(other._lengths):
            mine = self._lengths[number]
            if mine != its and its is not None:
                self._lengths[number] = its if mine is None else _RAGGED


def fix_length(bags: Bags, length: int) -> Bags:
    """Give each bag `length` positions, its ids first; bags of which one is longer are returned as they
    are.

    Empty positions have no id and gain 0.
    """
    assert bags.bag is not None
    assert bags.gain is not None
    count = bags.ids.numel()
    if _fills(bags, length):
        return replace(bags, bag=None, length=length, num_ids=count)
    lengths = _lengths(bags)
    if bool((lengths > length).any()):
        return bags
    # A bag begins after all positions of the bags before it, the empty ones included.
    shift = length * host.arange(len(lengths)) - (lengths.cumsum(0) - lengths)
    position = host.arange(count) + shift[bags.bag]
    ids = torch.full((len(lengths) * length,), NO_ID, dtype=torch.int64, device="cpu").scatter_(
        0, position, bags.ids
    )
    gain = host.zeros(len(ids)).scatter_(0, position, bags.gain)
    return replace(bags, ids=ids, bag=None, gain=gain, length=length, num_ids=count)


def _fills(bags: Bags, length: int) -> bool:
    """True if each bag has exactly `length` ids.

    The bags of ids rise, so it is enough to look at the first and the last of each `length` ids.
    """
    assert bags.bag is not None
    of_id, every = bags.bag.numpy(), np.arange(math.prod(bags.shape))
    if of_id.size != length * every.size:
        return False
    # numpy, whose calls take a fraction of torch's time on so little
    return np.array_equal(of_id[::length], every) and np.array_equal(
        of_id[length - 1 :: length], every
    )


def _lengths(bags: Bags) -> Tensor:
    assert bags.bag is not None
    return torch.bincount(bags.bag, minlength=math.prod(bags.shape))

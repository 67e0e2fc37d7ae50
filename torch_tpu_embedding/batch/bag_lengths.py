"""Which pooled features have bags of one length: found from the data, agreed upon by all processes.

Bags of any length are summed by a scatter of the rows of all their ids, and each id fetches its gradient
from its bag. Where every bag has H places, as in multi-hot features and histories that are cut, a sum over
`[H, B]` does the first and a broadcast the second. A feature whose first batch fills nearly all such places
is *fixed*, until a longer bag comes: from then on it is ragged. So it costs one more program at the most.
Places that later batches leave empty cost what they would as ragged ids, which are padded to the most there
were so far.

Letters: B batch, F features, H length of a bag, N ids, S processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..inputs.bags import NO_ID, Bags
from ..runtime import host

logger = logging.getLogger(__name__)

_MOST_POSITIONS_AN_ID = 9 / 8
"""About what the ids of ragged bags are padded to."""
_RAGGED = 0


class BagLengths:
    """The length of the bags of each feature, as far as it is known."""

    def __init__(self, names: Sequence[str], may_have_one_length: Sequence[bool]) -> None:
        self._names = names
        self._lengths: list[int | None] = [None if may else _RAGGED for may in may_have_one_length]

    def arrange(self, bags: Sequence[Bags]) -> list[Bags]:
        """The bags of one device, those of fixed features with H places each."""
        return [
            fix_length(each, length) if length and each.bag is not None else each
            for each, length in zip(bags, self._lengths, strict=True)
        ]

    def observe(self, parts: Sequence[Sequence[Bags]]) -> Tensor:
        """What this process has to say: `[F, 3]`, the longest bag of each feature, its ids, its bags; 0 for
        features of which nothing need be known, and for all if there are no bags to look at.

        Args:
            parts: of each device of this process what `arrange` gave.
        """
        seen = [[0, 0, 0] for _ in self._lengths]
        for part in parts:
            for of_feature, length, each in zip(seen, self._lengths, part, strict=True):
                if length == _RAGGED or each.bag is None or not each.ids.numel():
                    continue  # one that is arranged has no bag longer than is known
                of_feature[0] = max(of_feature[0], int(_lengths(each).max()))
                of_feature[1] += each.ids.numel()
                of_feature[2] += math.prod(each.shape)
        return host.ints(seen)

    def settle(self, seen: Tensor) -> bool:
        """Decide by what all processes have seen, `[S, F, 3]`; gives whether `arrange` has changed."""
        before = [length or _RAGGED for length in self._lengths]
        most = seen[:, :, 0].amax(0).tolist()
        _, ids, bags = seen.sum(0).T.tolist()
        for number, (length, longest) in enumerate(zip(self._lengths, most, strict=True)):
            if length is None and ids[number]:
                fits = longest * bags[number] <= _MOST_POSITIONS_AN_ID * ids[number]
                self._lengths[number] = longest if fits else _RAGGED
            elif length and longest > length:
                text = "feature %r has a bag of %d ids after bags of %d: its program is made anew"
                logger.info(text, self._names[number], longest, length)
                self._lengths[number] = _RAGGED
        return before != [length or _RAGGED for length in self._lengths]

    def adopt(self, other: BagLengths) -> None:
        """Learn from another one of the same features, lest its programs be compiled anew."""
        for number, its in enumerate(other._lengths):
            mine = self._lengths[number]
            if mine != its and its is not None:
                self._lengths[number] = its if mine is None else _RAGGED


def fix_length(bags: Bags, length: int) -> Bags:
    """Bags of `length` places each, the ids of a bag one after another; as they are if one is longer.

    Empty places have no id and gain 0.
    """
    assert bags.bag is not None
    assert bags.gain is not None
    count = bags.ids.numel()
    if _fills(bags, length):
        return replace(bags, bag=None, length=length, num_ids=count)
    lengths = _lengths(bags)
    if bool((lengths > length).any()):
        return bags
    # Behind those of the bags before it come as many places as they have left empty.
    shift = length * host.arange(len(lengths)) - (lengths.cumsum(0) - lengths)
    place = host.arange(count) + shift[bags.bag]
    ids = torch.full((len(lengths) * length,), NO_ID, dtype=torch.int64, device="cpu").scatter_(
        0, place, bags.ids
    )
    gain = host.zeros(len(ids)).scatter_(0, place, bags.gain)
    return replace(bags, ids=ids, bag=None, gain=gain, length=length, num_ids=count)


def _fills(bags: Bags, length: int) -> bool:
    """Whether each bag has so many ids, found from the first and the last of every so many: bags rise."""
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

"""Which pooled features have bags of one length: found from the data, agreed upon by all processes.

Bags of any length are summed by a scatter of the rows of all their ids, and each id fetches its gradient
from its bag. Where every bag has H places, as in multi-hot features and histories that are cut, a sum over
`[H, B]` does the first and a broadcast the second. A feature whose first batch fills nearly all such places
is *fixed*, until a longer bag comes or most places stay empty: from then on it is ragged. So it costs one
more program at the most.

Letters: B batch, F features, H length of a bag, N ids, S processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .features import NO_ID, Bags

logger = logging.getLogger(__name__)

_MOST_PLACES_AN_ID = 9 / 8
"""About what the ids of ragged bags are padded to."""
_TOO_MANY_PLACES_AN_ID = 2
"""On average since the first batch: a batch of few ids, as at the end of an epoch, makes no new program."""
_RAGGED = 0


@dataclass
class _Feature:
    name: str
    length: int | None
    """None as long as it is not known."""
    ids: int = 0
    places: int = 0
    """Since the length was fixed, over all batches."""


class BagLengths:
    """The length of the bags of each feature, as far as it is known."""

    def __init__(self, names: Sequence[str], may_be_fixed: Sequence[bool]) -> None:
        self._features = [
            _Feature(name, None if may else _RAGGED)
            for name, may in zip(names, may_be_fixed, strict=True)
        ]

    def arrange(self, bags: Sequence[Bags]) -> list[Bags]:
        """The bags of one device, those of fixed features with H places each."""
        return [
            fix_length(each, of.length) if of.length and each.bag is not None else each
            for each, of in zip(bags, self._features, strict=True)
        ]

    def observe(self, bags: Sequence[Bags]) -> Tensor:
        """What this process has to say: `[F, 3]`, the longest bag of each feature, its ids, its bags; 0 for
        features of which nothing need be known, and for all if there are no bags to look at."""
        seen = [(0, 0, 0)] * len(self._features)
        for number, each in enumerate(bags):
            length = self._features[number].length
            if each.bag is not None and each.ids.numel() and length != _RAGGED:
                longest = length if length and _fills(each, length) else int(_lengths(each).max())
                seen[number] = longest, each.ids.numel(), math.prod(each.shape)
        return torch.tensor(seen)

    def settle(self, seen: Tensor) -> bool:
        """Decide by what all processes have seen, `[S, F, 3]`; gives whether `arrange` has changed."""
        changed = False
        most = seen[:, :, 0].amax(0).tolist()
        sums = seen[:, :, 1:].sum(0).tolist()
        for of, longest, (ids, bags) in zip(self._features, most, sums, strict=True):
            if of.length is None and ids:
                fits = longest * bags <= _MOST_PLACES_AN_ID * ids
                of.length = longest if fits else _RAGGED
                changed |= fits
            elif of.length:
                of.ids += ids
                of.places += of.length * bags
                if longest > of.length or of.places > _TOO_MANY_PLACES_AN_ID * of.ids:
                    text = "bags of feature %r had %d ids, no longer have: a program is made anew"
                    logger.info(text, of.name, of.length)
                    of.length, changed = _RAGGED, True
        return changed

    def adopt(self, other: BagLengths) -> None:
        """Learn from another one of the same features, lest its programs be compiled anew."""
        for mine, its in zip(self._features, other._features, strict=True):
            if mine.length is None:
                mine.length, mine.ids, mine.places = its.length, its.ids, its.places
            elif its.length not in (None, mine.length):
                mine.length = _RAGGED


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
    shift = length * torch.arange(len(lengths)) - (lengths.cumsum(0) - lengths)
    place = torch.arange(count) + shift[bags.bag]
    ids = torch.full((len(lengths) * length,), NO_ID).scatter_(0, place, bags.ids)
    gain = torch.zeros(len(ids)).scatter_(0, place, bags.gain)
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

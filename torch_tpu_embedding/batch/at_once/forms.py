"""The batches that can be packed at once, and who packs them: one for each form of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ...config.resolved import Resolved
from ...inputs.at_once.bags import ONE_HOT, AtOnceBags, OneLengthBags
from ..dedup import Ranks
from ..program_shape import Form, StackOrder
from .batch import OneLengthBatch
from .packed import Fit, Packed
from .uneven import UnevenBatch


class Packer(Protocol):
    """Packs the batches of one form."""

    def pack(self, bags: Any, fit: Fit) -> Packed:
        """Deduplicate a batch of that form and write its numbers."""


class Packers:
    """The packers of all forms of batches, made when a form comes first.

    Args:
        order: gives the orders of the stacks by the forms of the features.
        ranks: of the batcher's thread.
    """

    def __init__(
        self,
        resolved: Resolved,
        order: Callable[[tuple[Form, ...]], tuple[StackOrder, ...]],
        ranks: Ranks,
    ) -> None:
        self._resolved = resolved
        self._order = order
        self._ranks = ranks
        self._known: dict[object, tuple[tuple[StackOrder, ...], Packer]] = {}

    def of(
        self, bags: AtOnceBags, lengths: tuple[int, ...]
    ) -> tuple[tuple[StackOrder, ...], Packer]:
        """The orders of the stacks for a batch, and its packer.

        Args:
            lengths: of the features, as `BagLengths.those_of` gives them.
        """
        key = bags.form, lengths
        known = self._known.get(key)
        if known is not None:
            return known
        parts = zip(bags.lengths, bags.shapes, lengths, strict=True)
        forms = tuple(Form(given == ONE_HOT, shape, length) for given, shape, length in parts)
        orders = self._order(forms)
        packer: Packer
        if isinstance(bags, OneLengthBags) and lengths == bags.lengths:
            packer = OneLengthBatch(self._resolved, orders, bags, self._ranks)
        else:
            packer = UnevenBatch(self._resolved, orders, bags, self._ranks)
        self._known[key] = orders, packer
        return orders, packer

"""Bags of ids made into bags of rows, for the tables that have a vocabulary.

Letters: N ids, K hash functions, V vocabulary (rows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..config.resolved import Resolved
from ..config.vocabulary import DynamicVocabulary, HashedVocabulary
from ..inputs.bags import Bags
from ..runtime import host
from .row_hash import hashed_rows

FindRows = Callable[[str, Tensor], Tensor]
"""Takes the name of a table with a DynamicVocabulary and ids `[N]`; gives their rows `[N]` by its map."""


def bags_of_rows(
    resolved: Resolved, bags: Sequence[Bags], find: FindRows | None = None
) -> Sequence[Bags]:
    """The bags of a batch with rows in the place of ids, in feature order.

    Args:
        bags: as `parse_features` gives them: those of a table with a vocabulary hold numbers of their
            `raw_ids`, and with a DynamicVocabulary go on so without `find`.
        find: gives the rows by the maps of tables with a DynamicVocabulary.
    """
    if not resolved.has_vocabularies:
        return bags
    found = []
    for feature, each in zip(resolved.features, bags, strict=True):
        table = resolved.table_of(feature)
        vocabulary = table.config.vocabulary
        if isinstance(vocabulary, HashedVocabulary):
            assert each.raw_ids is not None
            rows = hashed_rows(each.raw_ids, vocabulary, table.vocabulary_size)
            each = _one_row(each, rows[:, 0]) if rows.shape[1] == 1 else _several_rows(each, rows)
        elif find is not None and isinstance(vocabulary, DynamicVocabulary):
            assert each.raw_ids is not None
            each = _one_row(each, find(table.name, each.raw_ids))
        found.append(each)
    return found


def _one_row(bags: Bags, rows: Tensor) -> Bags:
    """Bags where each id has one row `[N]`."""
    if bags.bag is None:  # the last row is for positions without an id: NO_ID counts from the end
        rows = torch.cat([rows, host.ints([-1])])
    return replace(bags, ids=rows[bags.ids], raw_ids=None)


def _several_rows(bags: Bags, rows: Tensor) -> Bags:
    """Bags where each id has K rows `[N, K]`, which all have its gain; of a one-hot feature, bags of K."""
    count = rows.shape[1]
    ids, bag, gain = bags.ids, bags.bag, bags.gain
    if bag is None or gain is None:
        bag = (ids >= 0).nonzero()[:, 0]
        ids, gain = ids[bag], host.zeros(len(bag)) + 1.0
    return replace(
        bags,
        ids=rows[ids].reshape(-1),
        bag=bag.repeat_interleave(count),
        gain=gain.repeat_interleave(count),
        num_ids=len(ids) * count,
        raw_ids=None,
    )

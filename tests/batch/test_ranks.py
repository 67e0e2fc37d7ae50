"""Numbers for all possible keys give what the reference of deduplication gives."""

from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_tpu_embedding.batch.dedup import Ranks, unique_inverse

tables = st.lists(st.lists(st.lists(st.integers(0, 40), max_size=20), max_size=3), max_size=4)


@given(tables, st.randoms(use_true_random=False), st.booleans())
def test_ranks_give_what_the_reference_gives(
    of_tables: list[list[list[int]]], random: object, with_runs: bool
) -> None:
    pieces = [
        (table, [41 * table + key for key in part])
        for table, parts in enumerate(of_tables)
        for part in parts
    ]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    ends = [0, *accumulate(len(part) for _, part in pieces)]
    runs: list[list[slice]] = [[] for _ in of_tables]
    for (table, _), start, end in zip(pieces, ends[:-1], ends[1:], strict=True):
        runs[table].append(slice(start, end))
    keys = torch.tensor([key for _, part in pieces for key in part], dtype=torch.int64)
    before, bound = keys.clone(), 41 * len(of_tables) + 1
    ranks = Ranks()
    for _ in range(2):  # the second time over the numbers of the first
        full = [[part for part in run if part.start < part.stop] for run in runs]
        given_runs = [run for run in full if run] if with_runs else ()
        unique, inverse = ranks.unique_inverse(keys, bound, given_runs)
        wanted, wanted_inverse = unique_inverse(keys.clone(), bound)
        assert unique.dtype == inverse.dtype == torch.int32
        assert torch.equal(unique.long(), wanted)
        assert torch.equal(inverse, wanted_inverse)
        assert torch.equal(keys, before), "keys stay as they are"


def test_too_many_possible_keys_are_left_to_the_reference() -> None:
    assert Ranks.can_hold(1 << 23)
    assert not Ranks.can_hold((1 << 23) + 1)

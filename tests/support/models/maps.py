"""Rules, streams of ids and small maps, for tests of maps from ids to rows."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from torch_tpu_embedding.vocabularies.id_maps.id_map import IdMap, MapRules

NUM_IDS = 40
ALL_IDS = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, NUM_IDS, dtype=np.int64)
"""Ids of any sign, of which no two meet in a large sketch."""

rules = st.builds(
    MapRules,
    st.sampled_from(["lru", "lfu", None]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.none() | st.integers(1, 6),
)
streams = st.lists(
    st.tuples(st.lists(st.integers(0, NUM_IDS - 1), max_size=12), st.integers(0, 3)),
    min_size=1,
    max_size=25,
)


class SmallMap(IdMap):
    """A map whose candidates are few, so that they run out and are looked for again."""

    fewest_candidates = 2

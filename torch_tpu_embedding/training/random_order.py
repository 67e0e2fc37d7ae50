"""Data whose order nobody can repeat, told from a `torch.utils.data.DataLoader`'s sampler."""

from __future__ import annotations

import warnings
from typing import Any

from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def warn_of_random_order(batches: object) -> None:
    """Warn if `batches`, of which only the number taken is known, come in another order each time."""
    if not isinstance(batches, DataLoader):
        return
    found: Any = batches.batch_sampler if batches.batch_sampler is not None else batches.sampler
    sampler = getattr(found, "sampler", found)
    if isinstance(sampler, _RANDOM):
        warnings.warn(
            f"EmbeddingLoader: this DataLoader has no state_dict, and its {type(sampler).__name__} draws "
            "another order each time: a resumed run would see some samples twice and others never. Use "
            "torchdata.stateful_dataloader.StatefulDataLoader in its place, which takes the same arguments "
            "and resumes exactly",
            RuntimeWarning,
            stacklevel=3,  # the caller of state_dict or load_state_dict
        )

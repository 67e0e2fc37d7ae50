"""The device's part of freezing: where an update may write.

A frozen table is one whose learning rate is `FROZEN` in the buffer of rates, so that freezing recompiles
nothing and brings no further buffer. Letter: U records.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.learning_rates import FROZEN


def moves(rates: Tensor) -> Tensor:
    """Bool, shaped like the rates: False for records of frozen tables."""
    return rates < FROZEN


def spare_frozen(
    record: Tensor, valid: Tensor, rates: Tensor, padding_record: int
) -> tuple[Tensor, Tensor]:
    """Keep the changes of frozen rows from being written.

    Args:
        record: `[U]` int32. valid: `[U, 1]` bool, False for padding. rates: `[U, 1]`, or `[1]` for all.

    Returns:
        `record` with the padding record in place of those of frozen tables, and `valid` without them. A
        frozen row is not even added 0 to: XLA:CPU would turn a denormal number into 0.
    """
    moved = moves(rates)
    padding = record.new_full(
        (), padding_record
    )  # from a number `where` makes it in twice the time
    return torch.where(moved.view(-1), record, padding), valid & moved

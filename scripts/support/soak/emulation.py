"""The training of scripts/soak.py once more, in float64 and in numpy: Adagrad on two features of one table.

Letters: B batch, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

B, D = 8, 4
RATE = 0.01

Array = np.ndarray[Any, Any]
State = tuple[Array, Array]
"""Weights and accumulators."""
Samples = tuple[Array, tuple[Array, Array]]
"""A batch's distinct ids, and for each lookup its position among them and its row of activations."""


def emulate(start: State, batches: Sequence[Samples | None], pipelined: bool, lost: int) -> State:
    """Train on the batches in float64, and drop the update of the batch numbered `lost`.

    With `pipelined` a step reads before the update of the step before it: read(k), apply(k - 1). None among
    the batches stands for a flush.
    """
    weight, accumulators = (each.astype(np.float64) for each in start)
    waiting: tuple[Array, Array] | None = None

    def apply(ids: Array, gradient: Array) -> None:
        accumulators[ids] += gradient**2
        weight[ids] -= RATE * gradient / np.sqrt(accumulators[ids])

    for number, samples in enumerate(batches):
        update = None
        if samples is not None:
            ids, (of_id, of_sample) = samples
            activations = np.zeros((2 * B, D))
            np.add.at(activations, of_sample, weight[ids[of_id]])
            gradient = np.zeros((len(ids), D))
            np.add.at(gradient, of_id, 2 * (activations - 1)[of_sample])
            update = None if number == lost else (ids, gradient)
        if waiting is not None:
            apply(*waiting)
        waiting = update if pipelined else None
        if update is not None and not pipelined:
            apply(*update)
    assert waiting is None, "the log of a pipelined run ends with a flush"
    return weight, accumulators

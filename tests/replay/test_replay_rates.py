"""Learning rates of tables may be set as numbers of any kind between replayed steps."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from models.replays import Case, twins


@pytest.mark.parametrize("kind", [torch.tensor, np.float64, np.float32, Fraction, int])
def test_a_rate_of_another_kind_than_float_is_no_change_that_the_step_makes(
    kind: Callable[[float], Any],
) -> None:
    def schedule(case: Case, k: int) -> None:
        for group in case.embedding_optimizer.param_groups:
            group["lr"] = kind(0.5 * (k % 5))

    _, replayed = twins(between=schedule, verify=2, check_every=2)
    assert replayed.step.replayed > 8

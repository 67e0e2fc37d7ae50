"""Tables in bfloat16 are rounded by the same random bits whether a step is traced or run again."""

from __future__ import annotations

import pytest
import torch
from models.replays import twins

import torch_tpu_embedding as tte


@pytest.mark.parametrize("rule", [tte.SGD(0.1), tte.Adagrad(0.1)], ids=["sgd", "adagrad"])
def test_a_replayed_run_rounds_as_a_traced_one_does(rule: tte.optimizers.Optimizer) -> None:
    traced, replayed = twins(tables=rule, dtype=torch.bfloat16)
    assert replayed.step.replayed > 10
    assert traced.state["one.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_are_slots_and_activations_in_bfloat16(dtype: torch.dtype) -> None:
    traced, replayed = twins(
        tables=tte.Adam(0.1), dtype=dtype, slot_dtype=dtype, output_dtype=torch.bfloat16
    )
    assert replayed.step.replayed > 10
    assert traced.state["one.momenta"].dtype == dtype

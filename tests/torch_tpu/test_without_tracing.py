"""Calls that have another meaning, or none, where operators run one by one: replay, caches, SPMD."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from models import helpers
from torch import Tensor

import torch_tpu_embedding as tte

pytestmark = pytest.mark.torch_tpu


def test_replay_runs_the_step_as_it_is_with_one_warning() -> None:
    table = tte.TableConfig(20, 4, name="t", optimizer=tte.Adagrad(0.1))
    features = [tte.FeatureConfig(table)]
    states = []
    for replayed in (False, True):
        embedding = tte.TPUEmbedding(features, 4, None, seed=1)

        def step(embedding: tte.TPUEmbedding = embedding) -> Tensor:
            (rows,) = embedding.dequeue()
            loss = rows.square().sum()
            loss.backward()
            embedding.apply_gradients()
            return loss.detach()

        call = tte.replay(step, embedding) if replayed else step
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            for number in range(4):
                embedding.enqueue([torch.arange(4) + number])
                call()
        said = [str(each.message) for each in caught if "replay" in str(each.message)]
        assert len(said) == replayed
        if replayed:
            assert "torch_tpu runs operators one by one" in said[0]
            assert (call.traced, call.replayed) == (4, 0)  # type: ignore[attr-defined]
        states.append(helpers.tensors(embedding))
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])


def test_tracing_out_of_place_changes_nothing() -> None:
    value = torch.ones(3, device=tte.runtime.device())
    with tte.runtime.trace_out_of_place():
        value.add_(1)
    assert value.cpu().tolist() == [2, 2, 2]


def test_a_cache_of_programs_is_refused_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(
        RuntimeWarning, match=r"nothing is cached under torch_tpu.*leave the call out"
    ):
        tte.runtime.cache_compiled_programs(tmp_path / "programs")
    assert not (tmp_path / "programs").exists()


def test_partitioned_programs_are_refused_with_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"no partitioned programs.*leave spmd out.*torchrun"):
        tte.distributed.initialize(spmd=True)
    tte.distributed.initialize()  # the remedy; alone it connects nothing
    assert not tte.runtime.is_spmd()


def test_tables_of_two_bytes_a_number_are_refused_by_name_and_the_remedy_works() -> None:
    def make(dtype: torch.dtype) -> tte.TPUEmbedding:
        table = tte.TableConfig(20, 4, name="short", dtype=dtype)
        return tte.TPUEmbedding([tte.FeatureConfig(table)], 4, tte.SGD(0.1))

    with pytest.raises(
        ValueError, match=r"tables \['short'\] have dtype=torch.bfloat16.*torch_tpu"
    ):
        make(torch.bfloat16)
    make(torch.float32).build()

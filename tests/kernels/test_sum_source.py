"""The Pallas source of the kernel that sums rows, interpreted on the CPU, and the text of the package.

Needs the extra 'tpu-report' (jax); without it all is skipped.
"""

from __future__ import annotations

import os
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from torch_tpu_embedding.kernels.kernel_text import template
from torch_tpu_embedding.kernels.sum_rows import TILE, kernel_text, sum_rows

os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax", reason="the extra 'tpu-report' is not installed")
if jax.__version__ != "0.7.1":
    pytest.skip("the kernels are lowered by jax 0.7.1", allow_module_level=True)

from jax._src.pallas.mosaic import interpret  # noqa: E402
from jax.experimental.pallas import tpu as pltpu  # noqa: E402

from scripts.support.kernels import sums as source  # noqa: E402
from scripts.support.kernels import text as lowering  # noqa: E402

BLOCK = 16
"""Lookups of a block: few, so that a few dozen fill several."""


def params(cores: int = 1) -> Any:
    """The interpreter with race detection; sums begin as nan."""
    return pltpu.InterpretParams(
        detect_races=True,
        uninitialized_memory="nan",
        num_cores_per_device=cores,
        random_seed=0,
    )


def interpreted(
    rows: Any, lookups: Any, segment: Any, gain: Any, segments: int, **options: Any
) -> Any:
    found = source.sum_rows(lookups, segment, gain, rows, segments=segments, block=BLOCK, **options)
    return np.asarray(found.block_until_ready())


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 50), st.integers(1, 3), st.integers(1, 9),
    st.sampled_from([32, 64, 130]), st.integers(0, 99),
)  # fmt: skip
def test_sums_are_those_of_a_gather_and_a_scatter_add_without_a_race(
    cores: int, count: int, tiles: int, few: int, dim: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((12, dim)).astype(np.float32)
    lookups = draw.integers(0, 12, count, dtype=np.int32)
    segment = draw.integers(0, min(few, tiles * TILE), count, dtype=np.int32)  # many in one
    gain = draw.standard_normal(count).astype(np.float32)
    found = interpreted(rows, lookups, segment, gain, tiles * TILE, interpret=params(cores))
    tensors = map(torch.from_numpy, (rows, lookups, segment, gain[:, None]))
    wanted = sum_rows(*tensors, tiles * TILE, by_kernel=True).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert not interpret.races.races_found


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 50), st.integers(0, 99))
def test_sums_of_whole_numbers_are_exact(count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = draw.integers(-1000, 1000, (5, 32)).astype(np.float32)
    lookups, segment = draw.integers(0, 5, (2, count), dtype=np.int32)
    gain = draw.integers(-4, 5, count).astype(np.float32) / 4
    found = interpreted(rows, lookups, segment, gain, TILE, interpret=params())
    wanted = np.zeros((TILE, 32), np.float32)
    np.add.at(wanted, segment, rows[lookups] * gain[:, None])
    np.testing.assert_array_equal(found, wanted)


def test_padding_adds_nothing_and_rows_that_nobody_looks_up_may_hold_anything() -> None:
    rows = np.ones((4, 32), np.float32)
    rows[2], rows[3] = np.nan, 0.0
    lookups = np.array([0, 1, 3, 3], np.int32)
    segment, gain = np.array([1, 1, 7, 7], np.int32), np.array([1, 2, 0, 0], np.float32)
    found = interpreted(rows, lookups, segment, gain, TILE, interpret=params())
    wanted = np.zeros((TILE, 32), np.float32)
    wanted[1] = 3
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("wrong", [TILE, -1])
@pytest.mark.parametrize("which", ["row", "segment"])
def test_a_number_outside_is_an_error_of_the_interpreter(which: str, wrong: int) -> None:
    numbers = {"row": np.zeros(16, np.int32), "segment": np.zeros(16, np.int32)}
    numbers[which][5] = wrong
    rows, gain = np.ones((TILE, 32), np.float32), np.ones(16, np.float32)
    with pytest.raises(Exception, match="Out-of-bounds"):
        interpreted(rows, numbers["row"], numbers["segment"], gain, TILE, interpret=params())


@pytest.mark.parametrize("fault", ["pairs do not see each other", "sums are not cleared"])
def test_a_faulty_kernel_would_be_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = source.jnp.where

    def wrong(condition: Any, one: Any, other: Any) -> Any:
        clears = isinstance(other, int)  # the number of tiles to clear, else the second of two sums
        return (
            other if clears == (fault == "sums are not cleared") else where(condition, one, other)
        )

    monkeypatch.setattr(source.jnp, "where", wrong)
    rows, gain = np.ones((1, 32), np.float32), np.ones(16, np.float32)
    zeros = np.zeros(16, np.int32)
    found = interpreted(rows, zeros, zeros, gain, TILE, interpret=params())
    assert np.isnan(found).all() == (fault == "sums are not cleared")
    assert not np.array_equal(found[0], np.full(32, 16.0, np.float32))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2**17), st.integers(1, 2**15), st.integers(1, 2**12), st.integers(1, 600))
def test_the_text_is_what_the_source_lowers_to(
    lookups: int, rows: int, tiles: int, dim: int
) -> None:
    sizes = (lookups, rows, tiles * TILE, dim)
    assert kernel_text(*sizes) == lowering.lower_sums(*sizes)


def test_the_file_is_what_the_script_writes() -> None:
    assert template("sum_rows").template == lowering.template("sum_rows")
    assert source.TILE == TILE

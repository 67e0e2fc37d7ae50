"""The Pallas source of the row kernels, interpreted on the CPU, and the text that the package ships.

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
from torch_tpu_embedding.kernels.write_rows import (
    BLOCK,
    CHUNK,
    UNROLL,
    kernel_text,
    write_marked_rows,
    write_records,
)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax", reason="the extra 'tpu-report' is not installed")
if jax.__version__ != "0.7.1":
    pytest.skip("the kernels are lowered by jax 0.7.1", allow_module_level=True)

from jax._src.pallas.mosaic import interpret  # noqa: E402
from jax.experimental.pallas import tpu as pltpu  # noqa: E402

from scripts.support.kernels import source as row_kernels  # noqa: E402
from scripts.support.kernels import text as lowering  # noqa: E402

SMALL: dict[str, int] = {"block": 16, "chunk": 8}
"""Blocks and chunks of few records, so that a few dozen fill several."""
V = 64


def params(mode: str, cores: int) -> Any:
    """The interpreter with race detection; scratch memory begins as nan."""
    return pltpu.InterpretParams(
        dma_execution_mode=mode,
        detect_races=True,
        uninitialized_memory="nan",
        num_cores_per_device=cores,
        random_seed=0,
    )


def bits(generator: np.random.Generator, *shape: int) -> Any:
    """Floats of random bits, without nan: the interpreter does not keep all of a nan's bits."""
    drawn = generator.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    return np.where(np.isnan(drawn), np.float32(-0.0), drawn)


def same(found: Any, wanted: torch.Tensor) -> bool:
    return bool(np.array_equal(np.asarray(found).view(np.int32), wanted.numpy().view(np.int32)))


modes = st.sampled_from(["on_wait", "eager"])
cores = st.sampled_from([1, 2])


@settings(max_examples=12, deadline=None)
@given(modes, cores, st.integers(1, 3), st.integers(1, 40), st.data())
def test_the_first_records_are_written_bit_for_bit_and_without_a_race(
    mode: str, cores: int, rows: int, size: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, size))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    array, values = bits(generator, V * rows, 128), bits(generator, size * rows, 128)
    record = generator.permutation(V)[:size].astype(np.int32)
    record[count:] = V - 1  # padding, which may name a record that is written
    counts = np.array([count], np.int32)
    found = row_kernels.write_records(
        array, record, counts, values, rows=rows, interpret=params(mode, cores), **SMALL
    )
    wanted = torch.from_numpy(array.copy())
    given_values = torch.from_numpy(values).view(size, rows * 128)
    write_records(wanted, torch.from_numpy(record), given_values, torch.from_numpy(counts))
    assert same(found, wanted)
    assert not interpret.races.races_found


@settings(max_examples=8, deadline=None)
@given(modes, cores, st.integers(1, 2), st.integers(1, 60), st.data())
def test_so_they_are_where_the_loops_are_made_for_less_than_a_block_of_records(
    mode: str, cores: int, rows: int, size: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, size))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    array, values = bits(generator, V * rows, 128), bits(generator, size * rows, 128)
    record = np.full(BLOCK, V - 1, np.int32)
    record[:count] = generator.permutation(V)[:count]
    counts = np.array([count], np.int32)
    chunk, chunks = row_kernels.chunks_of(size)
    assert chunk * chunks >= size
    found = row_kernels.write_records(
        array,
        record,
        counts,
        values,
        rows=rows,
        chunk=chunk,
        chunks=chunks,
        interpret=params(mode, cores),
    )
    wanted = torch.from_numpy(array.copy())
    given_values = torch.from_numpy(values).view(size, rows * 128)
    write_records(wanted, torch.from_numpy(record), given_values, torch.from_numpy(counts))
    assert same(found, wanted)
    assert not interpret.races.races_found


@settings(max_examples=12, deadline=None)
@given(modes, cores, st.integers(1, 40), st.integers(0, 99))
def test_marked_rows_are_written_bit_for_bit_and_without_a_race(
    mode: str, cores: int, size: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    array, values = bits(generator, V, 128), bits(generator, size, 128)
    row = np.full(-(-size // 16) * 16, -1, np.int32)
    chosen = generator.permutation(V)[:size]
    row[:size] = np.where(generator.random(size) < 0.4, -1, chosen)
    found = row_kernels.write_marked_rows(
        array, row, values, interpret=params(mode, cores), **SMALL
    )
    wanted = torch.from_numpy(array.copy())
    write_marked_rows(wanted, torch.from_numpy(row[:size]), torch.from_numpy(values))
    assert same(found, wanted)
    assert not interpret.races.races_found


@pytest.mark.parametrize(("cores", "place"), [(1, 3), (2, 20)], ids=["one block", "two cores"])
def test_a_record_given_twice_is_found_to_be_a_race(cores: int, place: int) -> None:
    record = np.arange(32, dtype=np.int32)
    record[place] = record[2]
    array, values = np.zeros((V, 128), np.float32), np.ones((32, 128), np.float32)
    row_kernels.write_records(
        array, record, np.array([32], np.int32), values, interpret=params("on_wait", cores), **SMALL
    ).block_until_ready()
    assert interpret.races.races_found


@pytest.mark.parametrize("wrong", [V, -1])
def test_a_record_outside_of_the_array_is_an_error(wrong: int) -> None:
    record = np.array([0, wrong], np.int32)
    array, values = np.zeros((V, 128), np.float32), np.ones((2, 128), np.float32)
    with pytest.raises(Exception, match="Out-of-bounds"):
        row_kernels.write_records(
            array, record, np.array([2], np.int32), values, interpret=params("on_wait", 1), **SMALL
        ).block_until_ready()


def test_the_package_and_the_source_cut_records_into_the_same_blocks() -> None:
    source = row_kernels.BLOCK, row_kernels.CHUNK, row_kernels.UNROLL
    assert source == (BLOCK, CHUNK, UNROLL)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2**20), st.integers(1, 2**17) | st.integers(1, 1100), st.integers(1, 8))
def test_the_text_of_records_is_what_the_source_lowers_to(
    records: int, size: int, rows: int
) -> None:
    sizes = (8 * records * rows, size, rows)
    assert kernel_text("write_records", *sizes) == lowering.lower("write_records", *sizes)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 2**20), st.integers(1, 128))
def test_the_text_of_marked_rows_is_what_the_source_lowers_to(rows: int, blocks: int) -> None:
    sizes = (8 * rows, BLOCK * blocks, 1)
    assert kernel_text("write_marked_rows", *sizes) == lowering.lower("write_marked_rows", *sizes)


@pytest.mark.parametrize("name", lowering.KERNELS)
def test_the_files_are_those_that_the_script_writes(name: str) -> None:
    assert template(name).template == lowering.template(name)

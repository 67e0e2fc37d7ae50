"""The row kernels in Pallas: the source of the text in `torch_tpu_embedding/kernels/`. Needs jax.

An array in HBM has rows of 128 lanes, and a record is k consecutive rows, one contiguous piece of k * 512
bytes: one copy (DMA) moves it. The values of a block of records are brought into on-chip memory by the
pipeline around the kernel, and a copy is started for each record. The copies of a block are waited for
together: the semaphore counts bytes, whatever was copied where.

Letters: U records of a step, V records of the array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
BLOCK = 256
UNROLL = 8
"""Copies that are started in one trip of a loop."""


def write_records(
    array: Array,
    record: Array,
    count: Array,
    values: Array,
    *,
    rows: int = 1,
    block: int = BLOCK,
    interpret: Any = False,
) -> Array:
    """The array with the first `count` records written: record `record[i]` has the rows of `values[i]`.

    Args:
        array: `[V * rows, 128]`; the result takes over its memory.
        record: `[U]` int32; the first `count` are distinct.
        count: `[1]` int32.
        values: `[U * rows, 128]`.
        rows: k.
        block: records that one program of the grid writes.
        interpret: InterpretParams, to run on the CPU.
    """

    def kernel(record: Any, count: Any, values: Any, _: Any, out: Any, done: Any) -> None:
        first = pl.program_id(0) * block
        left = count[0] - first

        def copy(i: Any) -> Any:
            there = out.at[pl.ds(record[first + i] * rows, rows)]
            return pltpu.make_async_copy(values.at[pl.ds(i * rows, rows)], there, done)

        @pl.when(left >= block)
        def _whole_block() -> None:
            _unrolled(block, lambda i: copy(i).start())
            pltpu.make_async_copy(values, values, done).wait()

        @pl.when(left < block)
        def _part_of_a_block() -> None:
            _loop(left, lambda i: copy(i).start())
            _loop(left, lambda i: copy(0).wait())

    scalars = [record, count]
    return _call(kernel, scalars, values, array, rows, block, interpret)


def write_marked_rows(
    array: Array, row: Array, values: Array, *, block: int = BLOCK, interpret: Any = False
) -> Array:
    """The array with the rows written whose number is not negative: row `row[i]` is `values[i]`.

    Args:
        array: `[rows, 128]`; the result takes over its memory.
        row: int32, a multiple of `block` of them; those that are not negative are distinct.
        values: `[U, 128]`; there may be more numbers of rows than U, all negative.
        block, interpret: as for `write_records`.
    """

    def kernel(row: Any, values: Any, _: Any, out: Any, done: Any) -> None:
        first = pl.program_id(0) * block

        def start(i: Any, started: Any) -> Any:
            there = row[first + i]

            @pl.when(there >= 0)
            def _copy() -> None:
                pltpu.make_async_copy(values.at[pl.ds(i, 1)], out.at[pl.ds(there, 1)], done).start()

            return started + jnp.where(there >= 0, 1, 0)

        def trip(number: Any, started: Any) -> Any:
            for j in range(UNROLL):
                started = start(number * UNROLL + j, started)
            return started

        started = lax.fori_loop(0, block // UNROLL, trip, 0)
        size = block
        while size:  # the number of copies, bit by bit

            @pl.when((started & size) != 0)
            def _wait(size: int = size) -> None:
                some = values.at[pl.ds(0, size)]
                pltpu.make_async_copy(some, some, done).wait()

            size //= 2

    return _call(kernel, [row], values, array, 1, block, interpret)


def _unrolled(count: int, body: Callable[[Any], None]) -> None:
    """Run body(0) … body(count - 1), several of them in a trip of the loop."""

    def trip(number: Any, nothing: tuple[()]) -> tuple[()]:
        for j in range(UNROLL):
            body(number * UNROLL + j)
        return nothing

    lax.fori_loop(0, count // UNROLL, trip, ())


def _loop(count: Any, body: Callable[[Any], None]) -> None:
    """Run body(0) … body(count - 1); none if the count is negative."""

    def trip(number: Any, nothing: tuple[()]) -> tuple[()]:
        body(number)
        return nothing

    lax.fori_loop(0, jnp.maximum(count, 0), trip, ())


def _call(
    kernel: Any, scalars: list[Array], values: Array, array: Array, rows: int, block: int,
    interpret: Any,
) -> Array:  # fmt: skip
    """Run a kernel over blocks of records, on all cores of a chip, in the memory of `array`."""
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(scalars),
        grid=(-(-len(scalars[0]) // block),),
        in_specs=[
            pl.BlockSpec(
                (block * rows, LANES), lambda n, *_: (n, 0), memory_space=pltpu.MemorySpace.VMEM
            ),
            pl.BlockSpec(memory_space=pltpu.MemorySpace.ANY),
        ],
        out_specs=pl.BlockSpec(memory_space=pltpu.MemorySpace.ANY),
        scratch_shapes=[pltpu.SemaphoreType.DMA],
    )
    written: Array = pl.pallas_call(
        kernel,
        grid_spec=grid,
        out_shape=jax.ShapeDtypeStruct(array.shape, array.dtype),
        input_output_aliases={len(scalars) + 1: 0},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), disable_bounds_checks=False
        ),
        interpret=interpret,
    )(*scalars, values, array)
    return written

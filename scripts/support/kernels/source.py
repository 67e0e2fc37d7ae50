"""The row kernels in Pallas: the source of the text in `torch_tpu_embedding/kernels/`. Needs jax.

An array in HBM has rows of 128 lanes, and a record is k consecutive rows, one contiguous piece of k * 512
bytes, which one copy (DMA) moves. The pipeline around a kernel brings a block of record numbers into scalar
memory and a block of values into vector memory; the kernel starts a copy for each record. The copies of a
chunk of a block are waited for together: the semaphore counts bytes, whatever was copied where.

Letters: U records of a step, V records of the array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
BLOCK = 1024
"""Records that one program of the grid writes: what fills a tile of scalar memory."""
CHUNK = 256
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
    chunk: int = CHUNK,
    chunks: int | None = None,
    interpret: Any = False,
) -> Array:
    """The array with the first `count` records written: record `record[i]` has the rows of `values[i]`.

    Args:
        array: `[V * rows, 128]`; the result takes over its memory.
        record: `[U]` int32, or more numbers than values; the first `count` are distinct.
        count: `[1]` int32, at most U.
        values: `[U * rows, 128]`.
        rows: k.
        block: records that one program of the grid writes.
        chunk: records whose copies are waited for together.
        chunks: those of a block that can hold records, see `chunks_of`; None: all.
        interpret: InterpretParams, to run on the CPU.
    """

    def kernel(count: Any, record: Any, values: Any, _: Any, out: Any, done: Any) -> None:
        def start(i: Any) -> None:
            there = out.at[pl.ds(record[i] * rows, rows)]
            pltpu.make_async_copy(values.at[pl.ds(i * rows, rows)], there, done).start()

        def wait(records: int) -> None:
            some = values.at[pl.ds(0, records * rows)]
            pltpu.make_async_copy(some, some, done).wait()

        def write_chunk(number: Any) -> None:
            first = number * chunk
            left = count[0] - pl.program_id(0) * block - first

            @pl.when(left >= chunk)
            def _whole() -> None:
                _unrolled(chunk, lambda i: start(first + i))
                wait(chunk)

            @pl.when(left < chunk)
            def _part() -> None:
                loop(0, jnp.maximum(left, 0), lambda i: start(first + i))
                loop(0, jnp.maximum(left, 0), lambda i: wait(1))

        loop(0, block // chunk if chunks is None else chunks, write_chunk)

    inputs = [
        (record, block_of_numbers(block)),
        (values, _block_of_rows(block * rows)),
    ]
    return _call(kernel, [count], inputs, array, block, interpret)


def write_marked_rows(
    array: Array,
    row: Array,
    values: Array,
    *,
    block: int = BLOCK,
    chunk: int = CHUNK,
    interpret: Any = False,
) -> Array:
    """The array with the rows written whose number is not negative: row `row[i]` is `values[i]`.

    Args:
        array: `[rows, 128]`; the result takes over its memory.
        row: int32, a multiple of `block` of them; those that are not negative are distinct.
        values: `[U, 128]`; the numbers of rows after U, less than a block of them, are all negative.
        block, chunk, interpret: as for `write_records`.
    """

    def kernel(row: Any, values: Any, _: Any, out: Any, done: Any) -> None:
        def start(i: Any, started: Any) -> Any:
            there = row[i]

            @pl.when(there >= 0)
            def _copy() -> None:
                to = out.at[pl.ds(there, 1)]
                pltpu.make_async_copy(values.at[pl.ds(i, 1)], to, done).start()

            return started + jnp.where(there >= 0, 1, 0)

        def write_chunk(number: Any) -> None:
            def trip(begin: Any, started: Any) -> Any:
                for j in range(UNROLL):
                    started = start(number * chunk + begin * UNROLL + j, started)
                return started

            started = lax.fori_loop(0, chunk // UNROLL, trip, jnp.int32(0))
            size = chunk
            while size:  # the number of copies, bit by bit

                @pl.when((started & size) != 0)
                def _wait(size: int = size) -> None:
                    some = values.at[pl.ds(0, size)]
                    pltpu.make_async_copy(some, some, done).wait()

                size //= 2

        loop(0, block // chunk, write_chunk)

    inputs = [(row, block_of_numbers(block)), (values, _block_of_rows(block))]
    return _call(kernel, [], inputs, array, block, interpret)


def chunks_of(records: int) -> tuple[int, int]:
    """`chunk` and `chunks` of `write_records` for so many records: a part of a block has shorter loops."""
    half = -(-records // (2 * UNROLL)) * UNROLL
    chunk = min(CHUNK, max(half, 2 * UNROLL))
    return chunk, max(-(-min(records, BLOCK) // chunk), 2)  # a loop of one trip would be none


def _unrolled(count: int, body: Callable[[Any], None]) -> None:
    """Run body(0) … body(count - 1), several of them in a trip of the loop."""

    def several(number: Any) -> None:
        for j in range(UNROLL):
            body(number * UNROLL + j)

    loop(0, count // UNROLL, several)


def loop(begin: Any, end: Any, body: Callable[[Any], None]) -> None:
    """Run body(begin) … body(end - 1)."""

    def trip(number: Any, nothing: tuple[()]) -> tuple[()]:
        body(number)
        return nothing

    lax.fori_loop(begin, end, trip, ())


def block_of_numbers(count: int) -> Any:
    return pl.BlockSpec((count,), lambda n, *_: (n,), memory_space=pltpu.SMEM)


def _block_of_rows(rows: int) -> Any:
    return pl.BlockSpec((rows, LANES), lambda n, *_: (n, 0), memory_space=pltpu.VMEM)


def _call(
    kernel: Any, scalars: Sequence[Array], inputs: Sequence[tuple[Array, Any]], array: Array,
    block: int, interpret: Any,
) -> Array:  # fmt: skip
    """Run a kernel over blocks of records, on all cores of a chip, in the memory of `array`."""
    anywhere = pl.BlockSpec(memory_space=pltpu.MemorySpace.ANY)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(scalars),
        grid=(-(-inputs[0][0].shape[0] // block),),
        in_specs=[*(spec for _, spec in inputs), anywhere],
        out_specs=anywhere,
        scratch_shapes=[pltpu.SemaphoreType.DMA],
    )
    written: Array = pl.pallas_call(
        kernel,
        grid_spec=grid,
        out_shape=jax.ShapeDtypeStruct(array.shape, array.dtype),
        input_output_aliases={len(scalars) + len(inputs): 0},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), disable_bounds_checks=False
        ),
        interpret=interpret,
    )(*scalars, *(value for value, _ in inputs), array)
    return written

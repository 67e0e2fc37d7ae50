"""The kernel that sums rows, in Pallas: the source of `sum_rows.mlir`. Needs jax.

The rows and the sums of a step lie whole in vector memory, and the pipeline around the kernel brings blocks
of lookups (the row of each, its gain, its segment) into scalar memory. Lookups are added two by two: both
sums are read before either is written, and the second takes over the first's where the two are one.

Letters: R rows, N lookups, S segments, D dim.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

if __package__:
    from .source import BLOCK, UNROLL, block_of_numbers, loop
else:
    from source import BLOCK, UNROLL, block_of_numbers, loop

TILE = 8
"""Rows of a tile of vector memory."""


def sum_rows(
    source: Array,
    segment: Array,
    gain: Array,
    rows: Array,
    *,
    segments: int,
    block: int = BLOCK,
    interpret: Any = False,
) -> Array:
    """The sums `[S, D]` of `gain[n] * rows[source[n]]` over the lookups n of each segment.

    Args:
        source: `[N]` int32, the row of each lookup.
        segment: `[N]` int32, in any order.
        gain: `[N]` float32.
        rows: `[R, D]` float32.
        segments: S, a multiple of TILE.
        block: lookups that one program of the grid adds.
        interpret: InterpretParams, to run on the CPU.
    """
    lookups, dim = len(source), rows.shape[1]

    def kernel(source: Any, segment: Any, gain: Any, rows: Any, sums: Any) -> None:
        def row(i: Any) -> Any:
            return rows[pl.ds(source[i], 1), :] * gain[i]

        def add(i: Any) -> None:
            sums[pl.ds(segment[i], 1), :] += row(i)

        def add_two(i: Any) -> None:
            first, second = segment[i], segment[i + 1]
            one, other = row(i), row(i + 1)
            sum_of_first, sum_of_second = sums[pl.ds(first, 1), :], sums[pl.ds(second, 1), :]
            one = sum_of_first + one
            sums[pl.ds(first, 1), :] = one
            sums[pl.ds(second, 1), :] = jnp.where(first == second, one, sum_of_second) + other

        def add_several(number: Any) -> None:
            for j in range(0, UNROLL, 2):
                add_two(number * UNROLL + j)

        def clear(tile: Any) -> None:
            at = pl.multiple_of(tile * TILE, TILE)
            sums[pl.ds(at, TILE), :] = jnp.zeros((TILE, dim), jnp.float32)

        loop(0, jnp.where(pl.program_id(0) == 0, segments // TILE, 0), clear)
        left = lookups - pl.program_id(0) * block

        @pl.when(left >= block)
        def _whole() -> None:
            loop(0, block // UNROLL, add_several)

        @pl.when(left < block)
        def _part() -> None:
            loop(0, left, add)

    def whole(*shape: int) -> Any:
        return pl.BlockSpec(shape, lambda n: (0, 0), memory_space=pltpu.VMEM)

    numbers = block_of_numbers(block)
    summed: Array = pl.pallas_call(
        kernel,
        grid=(-(-lookups // block),),
        in_specs=[numbers, numbers, numbers, whole(*rows.shape)],
        out_specs=whole(segments, dim),
        out_shape=jax.ShapeDtypeStruct((segments, dim), jnp.float32),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), disable_bounds_checks=False
        ),
        interpret=interpret,
    )(source, segment, gain, rows)
    return summed

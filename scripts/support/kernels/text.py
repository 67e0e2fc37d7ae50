#!/usr/bin/env python3
"""Lower the row kernels to the text that the package ships. Needs jax 0.7.1.

    python scripts/support/kernels/text.py torch_tpu_embedding/kernels

writes the files `*.mlir` of that folder anew: the lowered kernels, with names in place of sizes.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from jax._src import tpu_custom_call
from jaxlib.mlir import ir

if __package__:
    from . import source, sums
else:
    import source
    import sums

KERNELS = ("write_records", "write_marked_rows", "sum_rows")
MOSAIC_VERSION = 7
"""The version of the dialect that libtpu 0.0.21 reads; jax 0.7.1 can write a later one."""
_SIZES = 888_832, 777_215, 11
"""Records of the array, records written, and rows of each: they and their products occur nowhere else in
the text."""
_CHUNKS = 1016, 6007
"""Likewise: records of a chunk, and chunks."""
_SUM_SIZES = {"lookups": 777_215, "rows": 30_011, "segments": 8 * 7919, "dim": 5003}
"""Likewise."""


def lower(
    name: str, array_rows: int, records: int, rows: int, chunks: tuple[int, int] | None = None
) -> str:
    """The text of a kernel for one set of sizes; arguments as for `kernel_text` of the package.

    Args:
        chunks: as `chunks_of` gives; None for what it gives.
    """
    numbers = [_type((max(records, source.BLOCK),), jnp.int32), _type((1,), jnp.int32)]
    array, values = _type((array_rows, 128)), _type((records * rows, 128))
    if name == "write_records":
        chunk, count = chunks or source.chunks_of(records)
        option = {"rows": rows, "chunk": chunk, "chunks": count}
        function = jax.jit(lambda *given: source.write_records(*given, **option))
        return _lowered(function, [array, *numbers, values])
    return _lowered(jax.jit(source.write_marked_rows), [array, numbers[0], values])


def lower_sums(lookups: int, rows: int, segments: int, dim: int) -> str:
    """The text of the kernel that sums rows; arguments as for `kernel_text` of the package's `sum_rows`."""
    numbers = _type((lookups,), jnp.int32)
    function = jax.jit(lambda *given: sums.sum_rows(*given, segments=segments))
    return _lowered(function, [numbers, numbers, _type((lookups,)), _type((rows, dim))])


def _lowered(function: Any, arguments: list[jax.ShapeDtypeStruct]) -> str:
    """The text of the one kernel that a function calls."""
    lowered: list[bytes] = []
    original = tpu_custom_call._lower_mosaic_module_to_asm
    version = tpu_custom_call.get_ir_version

    def keep(module: object, **options: object) -> object:
        found = original(module, **options)
        lowered.append(found[0])
        return found

    tpu_custom_call._lower_mosaic_module_to_asm = keep
    tpu_custom_call.get_ir_version = lambda context: MOSAIC_VERSION
    try:
        function.trace(*arguments).lower(lowering_platforms=("tpu",))
    finally:
        tpu_custom_call._lower_mosaic_module_to_asm = original
        tpu_custom_call.get_ir_version = version
    context = ir.Context()
    context.allow_unregistered_dialects = True
    with context:
        operation = ir.Module.parse(lowered[-1]).operation
        text: str = operation.get_asm(print_generic_op_form=True, enable_debug_info=False)
    return text


def _type(shape: tuple[int, ...], dtype: object = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def template(name: str) -> str:
    """The text of a kernel with names in place of sizes."""
    return _sum_template() if name == "sum_rows" else _write_template(name)


def _sum_template() -> str:
    sizes = _SUM_SIZES
    text = lower_sums(**sizes)
    for name, size in {**sizes, "tiles": sizes["segments"] // sums.TILE}.items():
        text = re.sub(rf"(?<![0-9]){size}(?![0-9])", f"${{{name}}}", text)
    blocks = -(-sizes["lookups"] // source.BLOCK)
    return text.replace(f"array<i64: {blocks}>", "array<i64: ${blocks}>")


def _write_template(name: str) -> str:
    per_record, records, rows = _SIZES
    rows = rows if name == "write_records" else 1
    chunk, chunks = _CHUNKS
    text = lower(name, per_record * rows, records, rows, _CHUNKS)
    block, blocks = source.BLOCK, -(-records // source.BLOCK)
    names = {
        f"<{per_record * rows}x": "<${array_rows}x",
        f"iteration_bounds = array<i64: {blocks}>": "iteration_bounds = array<i64: ${blocks}>",
    }
    if rows > 1:
        names |= {
            f"<{block * rows}x": "<${block_rows}x",
            f"array<i64: {block * rows},": "array<i64: ${block_rows},",
            f"<{chunk * rows}x": "<${chunk_rows}x",
            f"value = {chunk} : i32": "value = ${chunk} : i32",
            f"value = {chunk // source.UNROLL} : i32": "value = ${trips} : i32",
            f"value = {chunks} : i32": "value = ${chunks} : i32",
            f"<{rows}x": "<${rows}x",
            f"value = {rows} : i32": "value = ${rows} : i32",
        }
    for size, word in names.items():
        text = text.replace(size, word)
    return text


def main() -> None:
    """Run from the command line."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for name in KERNELS:
        (Path(sys.argv[1]) / f"{name}.mlir").write_text(template(name))


if __name__ == "__main__":
    main()

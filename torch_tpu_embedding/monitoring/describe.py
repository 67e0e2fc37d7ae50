"""A readable picture of an embedding: tables, features, and their arrays on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set

import torch

from .. import runtime
from ..config.resolved import WEIGHT, Resolved, Table, field_shape
from ..config.vocabulary import DynamicVocabulary
from ..distributed.exchange import Exchange
from ..distributed.placement import Placement
from ..kernels.sum_rows import DIMS
from ..tables.layout import ArrayLayout, StackLayout


def describe(
    resolved: Resolved,
    shapes: Sequence[tuple[int, ...] | None],
    batch_size: int,
    device: torch.device,
    stacks: tuple[StackLayout, ...] | None,
    placement: Placement,
    exchange: Exchange | None,
    frozen: Set[str] = frozenset(),
) -> str:
    """Tables, features and, once built for a device, the physical arrays, as aligned text."""
    tables = [["table", "vocabulary", "dim", "combiner", "optimizer", "slots", "MB"]]
    for table in resolved.tables:
        fields = (WEIGHT, *table.slot_names)
        size = sum(
            table.dtype_of(name).itemsize * math.prod(field_shape(table, name)) for name in fields
        )
        optimizer = type(table.optimizer).__name__ if table.optimizer else "none"
        if table.optimizer is None or table.name in frozen:
            optimizer += " (frozen)"
        tables.append(
            [
                table.name,
                _rows(table),
                str(table.dim),
                table.combiner,
                optimizer,
                ", ".join(table.slot_names) or "-",
                _megabytes(size),
            ]
        )
    features = [["feature", "table", "activation"]]
    for feature, shape in zip(resolved.features, shapes, strict=True):
        table = resolved.table_of(feature)
        if shape is None:  # not settled yet: the usual one
            length = feature.max_sequence_length
            shape = (batch_size, length) if length else (batch_size,)
        features.append([feature.name, table.name, str([*shape, table.dim])])
    title = f"TPUEmbedding on {device}"
    if runtime.is_accelerated(device):
        title += f" by {runtime.backend_name()}"
    if placement.num_devices > 1 and exchange is not None:
        title += (
            f", process {placement.rank} of {placement.num_shards} with a {placement.strategy!r} shard of "
            f"every table, {placement.local_devices} devices in each; exchange: {exchange.name}"
        )
    parts = [title, _align(tables), _align(features)]
    if packed := [table for table in resolved.tables if table.in_bfloat16]:
        parts.append(f"weights in bfloat16: {', '.join(map(_rounding, packed))}")
    if rounded := [each.name for each in resolved.features if each.output_dtype == torch.bfloat16]:
        parts.append(f"activations in bfloat16: {', '.join(rounded)}")
    if stacks is not None:
        arrays = [["stack", "tables", "array", "shape", "records a row", "written by", "MB"]]
        for number, stack in enumerate(stacks):
            for array in stack.arrays:
                arrays.append(
                    [
                        str(number),
                        str(len(stack.table_indices)),
                        _fields(array),
                        str([*array.shape]),
                        str(array.records_per_row),
                        "row kernel" if array.written_by_kernel else "scatter-add",
                        _megabytes(array.num_elements * 4),
                    ]
                )
        parts.append(_align(arrays))
        if any(stack.uses_kernels and stack.dim in DIMS for stack in stacks):
            parts.append("sums of ragged features: by a row kernel where they fit on the chip")
    return "\n\n".join(parts)


def _rounding(table: Table) -> str:
    how = "by chance" if table.rounding == "stochastic" else "to nearest"
    slots = any(table.dtype_of(name) == torch.bfloat16 for name in table.slot_names)
    return f"{table.name} (rounded {how}{', slots too' if slots else ''})"


def _fields(array: ArrayLayout) -> str:
    shown = " | ".join(array.fields)
    numbers = "weights" if array.packed == (WEIGHT,) else f"of {', '.join(array.packed)}"
    return shown if array.packed_dim is None else f"{shown} (int32, two {numbers} a lane)"


def _rows(table: Table) -> str:
    vocabulary = table.config.vocabulary
    if vocabulary is None:
        return f"{table.vocabulary_size:,}"
    if isinstance(vocabulary, DynamicVocabulary):
        return f"{table.vocabulary_size:,} rows, ids come and go"
    count = vocabulary.hash_functions
    return f"{table.vocabulary_size:,} rows by {count} hash{'es' if count > 1 else ''}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f}"


def _align(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)

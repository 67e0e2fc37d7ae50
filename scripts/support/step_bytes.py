"""The bytes that one step of this package must move at least, on one device.

Letters: U unique rows, B batch, D dim, L sequence length.
"""

from __future__ import annotations

from typing import Any

import torch

import torch_tpu_embedding as tte

FLOAT = 4


def bytes_moved(embedding: tte.TPUEmbedding, inputs: list[Any], training: bool) -> dict[str, int]:
    """Count the bytes that any program of a step must read and write in the device's memory.

    Each unique row is read once and, in a training step, written once, with its slots; each activation
    is written once; each gradient of one is read once. Padding of the batch does not count.

    Args:
        inputs: the batch, one value per feature: ids `[B]`, or `Ragged`.

    Returns:
        `unique_rows`; `record_bytes`: of physical rows, padding of lanes and neighbours included;
        `logical_bytes`: the same without them; `activation_bytes`: of activations and gradients;
        `index_bytes`: unique rows, rows and bags of lookups, and gains, which are sent to the device.
    """
    ids: dict[int, list[torch.Tensor]] = {}
    activations = indices = 0
    for feature, value in zip(embedding.resolved.features, inputs, strict=True):
        dim = embedding.resolved.tables[feature.table_index].dim
        flat = value if isinstance(value, torch.Tensor) else value.values
        samples = len(value) if isinstance(value, torch.Tensor) else len(value.row_splits) - 1
        ids.setdefault(feature.table_index, []).append(flat)
        length = feature.config.max_sequence_length
        activations += samples * max(length, 1) * dim
        # an id in a bag comes with its row, its bag and its gain; a one-hot id with its row
        in_bag = not isinstance(value, torch.Tensor) and not length
        indices += 3 * len(flat) if in_bag else samples * max(length, 1)
    unique = {table: len(torch.cat(each).unique()) for table, each in ids.items()}
    times = 2 if training else 1
    record_bytes = logical_bytes = 0
    for stack in embedding._tables.engine.store.stacks:
        rows = sum(unique.get(table, 0) for table in stack.table_indices)
        for array in stack.arrays if training else stack.arrays[:1]:
            record_bytes += times * rows * array.row_width * FLOAT
            used = sum(array.widths) if training else stack.dim
            logical_bytes += times * rows * used * FLOAT
    return {
        "unique_rows": sum(unique.values()),
        "record_bytes": record_bytes,
        "logical_bytes": logical_bytes,
        "activation_bytes": times * activations * FLOAT,
        "index_bytes": (sum(unique.values()) + indices) * FLOAT,
    }

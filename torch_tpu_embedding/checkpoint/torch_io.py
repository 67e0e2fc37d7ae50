"""From and to plain torch: nn.Embedding, TorchRec's state dicts, single files.

Letters: V vocabulary, D dim, S shards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..host_group import raise_together
from ..layout import WEIGHT
from . import durable
from .background import settle
from .known_steps import forget
from .reader import Reader
from .shard import HasShard, block_rows
from .stream import FileWriter, Hasher, TensorSpec

_TORCHREC_KEY = re.compile(r"(?:.*\.)?(?:embedding_bags|embeddings)\.(?P<table>[^.]+)\.weight")


def import_modules(
    embedding: HasShard, modules: Mapping[str, nn.Embedding | nn.EmbeddingBag | Tensor]
) -> None:
    """Set weights from torch modules; all processes call this together, each with whole tables.

    Slots, and tables that are not named, keep what they have.

    Args:
        modules: table name → nn.Embedding, nn.EmbeddingBag, or a tensor `[V, D]`; other floats than
            float32 are converted.

    Raises:
        ValueError: there is no such table, or a shape or the padding_idx of a module differs; nothing has
            changed then.
    """
    shard = embedding.shard
    error = settle(embedding)
    weights: dict[int, Tensor] = {}
    try:
        if error is None:
            weights = _checked(embedding, modules)
    except Exception as caught:
        error = caught
    raise_together(shard.group, "checkpoint.import_modules", error)
    forget(embedding)
    for number, weight in weights.items():
        ids, at_once = shard.ids(number), block_rows({WEIGHT: weight.shape[1]})
        for start in range(0, len(ids), at_once):
            wanted = ids[start : start + at_once]
            rows = weight[wanted[0] : wanted[-1] + 1 : wanted.step].detach().cpu().float()
            shard.write_rows(number, start, {WEIGHT: rows.clone()})


def import_state_dict(
    embedding: HasShard, state: Mapping[str, Any], rename: Mapping[str, str] | None = None
) -> list[str]:
    """Set weights from a TorchRec-style state dict; gives the names of the tables that were set.

    Taken are the keys `…embedding_bags.<table>.weight` and `…embeddings.<table>.weight`.

    Args:
        rename: name there → name in the embedding.

    Raises:
        ValueError: no key is of that form, two are of one table, or one does not fit; nothing has
            changed then.
    """
    found: dict[str, Any] = {}
    for key, value in state.items():
        match = _TORCHREC_KEY.fullmatch(key)
        if match:
            name = (rename or {}).get(match["table"], match["table"])
            if name in found:
                raise ValueError(f"{key!r}: a second tensor for table {name!r}; leave one out")
            found[name] = value
    if not found:
        raise ValueError(
            "no key of the form embedding_bags.<table>.weight or embeddings.<table>.weight among "
            f"{[*state][:8]}; pass the tensors to import_modules instead"
        )
    import_modules(embedding, found)
    return [*found]


def export_table(reader: Reader, table: str, path: str | Path, field: str = WEIGHT) -> None:
    """Write one field of a table to a single file, row i id i, block by block.

    Args:
        reader: what `checkpoint.open` gave.
        path: ends in `.safetensors` (its key is `<table>.<field>`) or `.npy`; an existing file is
            replaced once the new one is complete.

    Raises:
        ValueError: the path ends otherwise.
        KeyError: there is no such table or field.
    """
    path = Path(path).absolute()
    if path.suffix not in (".safetensors", ".npy"):
        raise ValueError(f"{path}: the name must end in .safetensors or .npy")
    reader.read(table, field, 0, 0)  # raises where there is no such field
    shape = reader.rows(table, field).shape
    if path.suffix == ".npy":
        _export_numpy(reader, table, field, path, shape)
        return
    with Hasher() as hasher:
        spec = TensorSpec(f"{table}.{field}", "F32", shape)
        writer = FileWriter(path, [spec], hasher)
        try:
            for start, stop in _blocks(shape):
                rows = reader.read(table, field, start, stop).numpy()
                writer.write(rows.reshape(-1).view(np.uint8).data)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
    durable.sync_directory(path.parent)


def _export_numpy(
    reader: Reader, table: str, field: str, path: Path, shape: tuple[int, int]
) -> None:
    temporary = path.with_name(path.name + durable.TEMPORARY)
    try:
        target = np.lib.format.open_memmap(temporary, "w+", np.dtype(np.float32), shape)
        for start, stop in _blocks(shape):
            target[start:stop] = reader.read(table, field, start, stop).numpy()
        target.flush()
        del target
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            durable.sync_file(descriptor)
        finally:
            os.close(descriptor)
        durable.rename(temporary, path)
    except BaseException:
        durable.remove(temporary)
        raise
    durable.sync_directory(path.parent)


def _blocks(shape: tuple[int, int]) -> list[tuple[int, int]]:
    at_once = block_rows({WEIGHT: shape[1]})
    return [(start, min(start + at_once, shape[0])) for start in range(0, shape[0], at_once)]


def _checked(embedding: HasShard, given: Mapping[str, Any]) -> dict[int, Tensor]:
    """Table number → weights, all of which fit."""
    tables = {table.name: (number, table) for number, table in enumerate(embedding.shard.tables)}
    problems, weights = [], {}
    for name, value in given.items():
        if name not in tables:
            problems.append(f"{name!r} is no table of the embedding, which holds {sorted(tables)}")
            continue
        number, table = tables[name]
        weight = value
        if isinstance(value, (nn.Embedding, nn.EmbeddingBag)):
            weight = value.weight
            if value.padding_idx not in (None, table.padding_row):
                problems.append(
                    f"table {name!r}: the module has padding_idx {value.padding_idx}, the table "
                    f"{table.padding_row}; set it in the TableConfig, or pass the module's weight alone"
                )
                continue
        wanted = [table.vocabulary_size, table.dim]
        if not isinstance(weight, Tensor):
            problems.append(
                f"table {name!r}: expected a tensor {wanted}, got {type(weight).__name__}; gather a "
                "sharded tensor first"
            )
        elif [*weight.shape] != wanted or not weight.is_floating_point():
            problems.append(
                f"table {name!r}: expected floats of shape {wanted} (vocabulary_size, dim), got "
                f"{weight.dtype} {[*weight.shape]}"
            )
        else:
            weights[number] = weight
    if problems:
        raise ValueError("\n\t".join(["weights do not fit the embedding:", *problems]))
    return weights

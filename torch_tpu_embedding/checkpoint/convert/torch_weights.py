"""From and to plain torch and numpy: nn.Embedding, state dicts of TorchRec and DLRM, single files.

Letters: V vocabulary, D dim, S shards.
"""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...config.resolved import WEIGHT, Table
from ...distributed.group import together
from ...inputs.host_values import float32_copy, is_floating
from ...io.paths import local_path, naming
from ...tables.low_precision.rounding import exact_or_reason
from ..format import durable
from ..format.safetensors_file import FileWriter, Hasher, TensorSpec
from ..reading.reader import Reader
from ..rows import HasShard, block_rows
from ..writing.background import wait_before
from ..writing.delta_bases import forget

_KEY = re.compile(r"(?:.*\.)?(?:embedding_bags|embeddings|emb_l)\.(?P<table>[^.]+)\.weight")
"""TorchRec's keys, then DLRM's."""

Weights = nn.Embedding | nn.EmbeddingBag | Tensor | np.ndarray[Any, Any]


def import_modules(embedding: HasShard, modules: Mapping[str, Weights]) -> None:
    """Set weights from torch modules, tensors or arrays; all processes call this together, each with whole
    tables.

    Slots, and tables that are not named, keep what they have. A weighted 'mean' divides by the sum of the
    weights here, and by the number of ids in FBGEMM and TorchRec: docs/checkpoints.md says what to do.

    Args:
        embedding: a TPUEmbedding, or anything else that has a `shard`.
        modules: table name → nn.Embedding, nn.EmbeddingBag, or a tensor or numpy array (a memory map too)
            `[V, D]`; other floats than float32 are converted. A table in bfloat16 takes numbers
            that bfloat16 has; round others with `.bfloat16()`.

    Raises:
        ValueError: there is no such table, or a shape or the padding_idx of a module differs; nothing has
            changed then.
    """
    _import(embedding, "checkpoint.import_modules", lambda: modules)


def import_state_dict(
    embedding: HasShard, state: Mapping[str, Any], rename: Mapping[str, str] | None = None
) -> list[str]:
    """Set weights from a state dict; gives the names of the tables that were set.

    Taken are TorchRec's keys `…embedding_bags.<table>.weight` and `…embeddings.<table>.weight`, DLRM's
    `…emb_l.<number>.weight`, and every key that `rename` names. Otherwise as `import_modules`.

    Args:
        embedding: a TPUEmbedding, or anything else that has a `shard`.
        state: key → tensor or numpy array.
        rename: name there (`<table>`, `<number>`, or a whole key) → name in the embedding.

    Raises:
        ValueError: no key is taken, two are of one table, one does not fit, or `rename` names something
            that is not there; nothing has changed then.
    """
    return _import(
        embedding, "checkpoint.import_state_dict", lambda: _named(embedding, state, rename or {})
    )


def _import(embedding: HasShard, what: str, find: Callable[[], Mapping[str, Weights]]) -> list[str]:
    shard = embedding.shard
    with together(shard.group, what):
        wait_before(embedding)
        weights = _checked(embedding, find())
    forget(embedding)
    for number, weight in weights.items():
        ids, at_once = shard.ids(number), block_rows({WEIGHT: weight.shape[1]})
        for start in range(0, len(ids), at_once):
            wanted = ids[start : start + at_once]
            rows: Any = weight[wanted[0] : wanted[-1] + 1 : wanted.step]
            shard.write_rows(number, start, {WEIGHT: float32_copy(rows)})
    return [shard.tables[number].name for number in weights]


def _named(
    embedding: HasShard, state: Mapping[str, Any], rename: Mapping[str, str]
) -> dict[str, Any]:
    """Table → its weight in a state dict."""
    tables = [table.name for table in embedding.shard.tables]
    found: dict[str, Any] = {}
    used = set()
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        there = key if key in rename or match is None else match["table"]
        if match is None and there not in rename:
            continue
        used.add(there)
        name = rename.get(there, there)
        if name in found:
            raise ValueError(f"{key!r}: a second tensor for table {name!r}; leave one out")
        if name not in tables:
            raise ValueError(
                f"{key!r}: the embedding has no table {name!r}, it holds {sorted(tables)}; leave the key "
                f"out, or pass rename={{{there!r}: …}}"
            )
        found[name] = value
    if unknown := sorted(set(rename) - used):
        raise ValueError(
            f"rename: the state dict has no {unknown}; its keys begin with {[*state][:8]}"
        )
    if not found:
        raise ValueError(
            "no key of the form embedding_bags.<table>.weight, embeddings.<table>.weight or "
            f"emb_l.<number>.weight among {[*state][:8]}; pass rename={{key: table}}, or the tensors to "
            "import_modules"
        )
    return found


def export_table(
    reader: Reader, table: str, path: str | os.PathLike[str], field: str = WEIGHT
) -> None:
    """Write one field of a table to a single file, row i id i, block by block.

    Args:
        reader: what `checkpoint.open` gave.
        table: its name in the checkpoint.
        path: ends in `.safetensors` (its key is `<table>.<field>`) or `.npy`; an existing file is
            replaced once the new one is complete.
        field: 'weight', or the name of a slot.

    Raises:
        ValueError: the path ends otherwise.
        KeyError: there is no such table or field.
    """
    path = local_path(path).absolute()
    if path.suffix not in (".safetensors", ".npy"):
        raise ValueError(f"{path}: the name must end in .safetensors or .npy")
    reader.read(table, field, 0, 0)  # raises where there is no such field
    shape = reader.rows(table, field).shape
    rows = (
        reader.read(table, field, start, stop).numpy().reshape(-1).view(np.uint8).data
        for start, stop in _blocks(shape)
    )
    # Of this call's own: what an export that was killed has left is in nobody's way.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    try:
        if path.suffix == ".npy":
            _write_numpy(temporary, shape, rows)
        else:
            _write_safetensors(temporary, TensorSpec(f"{table}.{field}", "F32", shape), rows)
        durable.rename(temporary, path)
    except BaseException:
        durable.remove(temporary)
        raise
    durable.sync_directory(path.parent)


def _write_safetensors(path: Path, spec: TensorSpec, rows: Iterable[memoryview]) -> None:
    with Hasher() as hasher:
        writer = FileWriter(path, [spec], hasher)
        try:
            for data in rows:
                writer.write(data)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise


def _write_numpy(path: Path, shape: tuple[int, int], rows: Iterable[memoryview]) -> None:
    """Write without a memory map, in which a full disk would end the process without an exception."""
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    descriptor = durable.create(path)
    try:
        with naming(path):
            durable.write_all(descriptor, header.getbuffer())
            for data in rows:
                durable.write_all(descriptor, data)
            durable.sync_file(descriptor)
    finally:
        os.close(descriptor)


def _blocks(shape: tuple[int, int]) -> list[tuple[int, int]]:
    at_once = block_rows({WEIGHT: shape[1]})
    return [(start, min(start + at_once, shape[0])) for start in range(0, shape[0], at_once)]


def _checked(
    embedding: HasShard, given: Mapping[str, Any]
) -> dict[int, Tensor | np.ndarray[Any, Any]]:
    """Table number → weights, all of which fit."""
    tables = {table.name: (number, table) for number, table in enumerate(embedding.shard.tables)}
    problems = []
    weights: dict[int, Tensor | np.ndarray[Any, Any]] = {}
    for name, value in given.items():
        if name not in tables:
            problems.append(f"{name!r} is no table of the embedding, which holds {sorted(tables)}")
            continue
        number, table = tables[name]
        if table.config.vocabulary is not None:
            problems.append(
                f"table {name!r}: its rows are found by a {type(table.config.vocabulary).__name__}, but "
                "those of weights have numbers; leave it out, or take a TableConfig without a vocabulary"
            )
            continue
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
        if not isinstance(weight, (Tensor, np.ndarray)):
            problems.append(
                f"table {name!r}: expected a tensor or numpy array {wanted}, got {type(weight).__name__}; "
                "gather a sharded tensor first"
            )
        elif [*weight.shape] != wanted or not is_floating(weight):
            problems.append(
                f"table {name!r}: expected floats of shape {wanted} (vocabulary_size, dim), got "
                f"{weight.dtype} {[*weight.shape]}"
            )
        elif table.in_bfloat16 and (reason := _inexact(table, weight)):
            problems.append(reason)
        else:
            weights[number] = weight
    if problems:
        raise ValueError("\n\t".join(["weights do not fit the embedding:", *problems]))
    return weights


def _inexact(table: Table, weight: Tensor | np.ndarray[Any, Any]) -> str | None:
    """The first number that a table in bfloat16 lacks, as an error, or None."""
    for start, stop in _blocks((table.vocabulary_size, table.dim)):
        where = f"table {table.name!r}, rows {start} … {stop - 1}"
        if reason := exact_or_reason(float32_copy(weight[start:stop]), where):
            return reason
    return None

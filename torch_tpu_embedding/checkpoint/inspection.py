"""The findings of `python -m torch_tpu_embedding.checkpoint`: a look inside, hashes, differences.

Everything streams; the results are plain data, ready for JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.resolved import WEIGHT
from ..distributed.placement import Strategy
from ..vocabularies.saved_maps import blocks
from .errors import CheckpointError
from .format.index import TableEntry
from .format.run_directory import run_directory
from .format.steps import all_steps, choose_step, complete_steps
from .reading.reader import Reader, open_checkpoint
from .reading.step_reader import StepFiles
from .rows import block_rows
from .write_tables import TableSource, write_tables

Progress = Callable[[int], object]
"""A function called with the number of rows or files that are done."""


def inspect(directory: Path, step: int | None, norms: bool) -> dict[str, Any]:
    """All steps, and the tables of one of them (the newest complete one).

    Args:
        norms: also read every row, for the Euclidean norm of each field and its largest magnitude.
    """
    directory = run_directory(directory)
    complete = complete_steps(directory)
    result: dict[str, Any] = {
        "directory": str(directory),
        "complete": complete,
        "incomplete": [each for each in all_steps(directory) if each not in complete],
    }
    with open_checkpoint(directory, step, verify=False) as reader:
        index = reader.index
        result["step"] = {
            "step": reader.step,
            "num_shards": index.num_shards,
            "strategy": index.strategy,
            "base": index.base.step if index.base else None,
            "files": len(index.files),
            "bytes": sum(entry.bytes for entry in index.files.values()),
            "extra": index.files[index.extra].bytes if index.extra else None,
            "serving_bytes": _serving_bytes(reader),
            "tables": _tables(reader, norms),
        }
    return result


def _serving_bytes(reader: Reader) -> dict[str, int]:
    """The bytes of the weights alone: in float32, and as `export_serving(quantize="int8")` holds them."""
    shapes = [(each.vocabulary_size, each.fields[WEIGHT]) for each in reader.tables.values()]
    return {
        "float32": sum(4 * rows * width for rows, width in shapes),
        "int8": sum(
            rows * min(width + 8, 4 * width) for rows, width in shapes
        ),  # and a scale and an offset a row
    }


def _tables(reader: Reader, norms: bool) -> list[dict[str, Any]]:
    found = [_table(reader, entry, norms) for entry in reader.tables.values()]
    for table in found:
        saved = reader.map(table["name"])
        if saved is not None:
            rows = saved.vocabulary - table["vocabulary"]["oov_rows"]
            ids = sum(len(each["ids"]) for each in blocks(saved, range(saved.vocabulary)))
            table["vocabulary"] = {**table["vocabulary"], "ids": ids, "occupancy": ids / rows}
    return found


def _table(reader: Reader, entry: TableEntry, norms: bool) -> dict[str, Any]:
    fields: dict[str, dict[str, Any]] = {
        name: {"shape": [entry.vocabulary_size, width]} for name, width in entry.fields.items()
    }
    if norms:
        for name, described in fields.items():
            total, largest = 0.0, 0.0
            for rows in _blocks(reader, entry, name):
                total += float(rows.double().square().sum())
                largest = max(largest, float(rows.abs().max()))
            described.update(norm=math.sqrt(total), max_abs=largest)
    found = {"name": entry.name, "optimizer": entry.optimizer, "fields": fields}
    if entry.dtype != "float32":
        found["dtype"] = entry.dtype
    if entry.slot_dtype != "float32":
        found["slot_dtype"] = entry.slot_dtype
    return found if entry.vocabulary is None else {**found, "vocabulary": entry.vocabulary}


def verify(directory: Path, step: int | None, progress: Progress) -> dict[str, Any]:
    """Check every complete step, or one: 'steps' → 'ok', or its fault as text."""
    directory = run_directory(directory)
    steps = complete_steps(directory) if step is None else [step]
    if not steps:
        choose_step(directory, None)  # raises: an empty directory is not a good checkpoint
    results = []
    for each in steps:
        errors: list[str] = []
        files = 0
        try:
            reader = Reader(directory, each)
            errors += _errors(reader.check)
            for step_files, name in reader.files():
                errors += _errors(partial(step_files.verify, [name]))
                files += 1
                progress(1)
            reader.close()
        except (CheckpointError, OSError) as error:
            errors.append(str(error))
        results.append({"step": each, "files": files, "errors": [*dict.fromkeys(errors)]})
    return {
        "directory": str(directory),
        "ok": not any(r["errors"] for r in results),
        "steps": results,
    }


def _errors(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except (CheckpointError, OSError) as error:
        return [str(error)]
    return []


def compare(one: Reader, other: Reader, progress: Progress) -> dict[str, Any]:
    """The differences of two checkpoints, field by field; rows differ where a bit does."""
    tables: list[dict[str, Any]] = []
    for name in sorted({*one.tables} | {*other.tables}):
        a, b = one.tables.get(name), other.tables.get(name)
        if a is None or b is None:
            tables.append({"table": name, "only_in": "A" if b is None else "B"})
            continue
        for field in dict.fromkeys([*a.fields, *b.fields]):
            result: dict[str, Any] = {"table": name, "field": field}
            shapes = [
                [each.vocabulary_size, each.fields[field]] if field in each.fields else None
                for each in (a, b)
            ]
            if shapes[0] != shapes[1]:
                result["shapes"] = shapes
            else:
                result.update(_differences(one, other, a, field, progress))
            tables.append(result)
    same = all(each.get("rows_differing") == 0 for each in tables)
    return {"steps": [one.step, other.step], "same": same, "fields": tables}


def _differences(
    one: Reader, other: Reader, entry: TableEntry, field: str, progress: Progress
) -> dict[str, Any]:
    rows, at, largest = 0, 0, 0.0
    first: int | None = None
    for a, b in zip(_blocks(one, entry, field), _blocks(other, entry, field), strict=True):
        differ = (a.view(torch.int32) != b.view(torch.int32)).any(dim=1)
        count = int(differ.sum())
        if count:
            gap = (a.double() - b.double())[differ].abs().max()
            largest = max(largest, float(gap)) if not gap.isnan() else math.nan
            first = at + int(differ.nonzero()[0, 0]) if first is None else first
        rows += count
        at += len(a)
        progress(len(a))
    return {
        "rows": entry.vocabulary_size,
        "rows_differing": rows,
        "first_id_differing": first,
        "max_abs_difference": largest,
    }


def reshard(
    source: Path,
    target: Path,
    num_shards: int,
    strategy: Strategy | None,
    step: int | None,
    progress: Progress,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a step again, for another number of shards; a delta becomes a full step.

    Args:
        overwrite: as for `write_tables`; the target may be the source.

    Raises:
        ValueError: there are more shards than the largest table has rows.
    """
    with open_checkpoint(source, step) as reader:
        _require_rows_for(num_shards, reader)
        chosen = strategy or ("div" if reader.index.strategy == "div" else "mod")
        tables: Mapping[str, TableSource] = {
            name: TableSource(
                {field: _Watched(reader, name, field, progress) for field in entry.fields},
                entry.optimizer,
                entry.vocabulary,
                reader.map(name),
            )
            for name, entry in reader.tables.items()
        }
        write_tables(
            target,
            reader.step,
            tables,
            extra=reader.extra(),
            num_shards=num_shards,
            strategy=chosen,
            overwrite=overwrite,
            updates=reader.index.updates,
        )
        return {
            "step": reader.step, "directory": str(target), "num_shards": num_shards,
            "strategy": chosen, "tables": sorted(tables),
        }  # fmt: skip


def _require_rows_for(num_shards: int, reader: Reader) -> None:
    largest = max(entry.vocabulary_size for entry in reader.tables.values())
    if num_shards > largest:
        files = num_shards * len({f for entry in reader.tables.values() for f in entry.fields})
        raise ValueError(
            f"reshard: {num_shards:,} shards would be some {files:,} files, most of them empty, for the "
            f"largest table has {largest:,} rows; give at most {largest} shards"
        )


class _Watched:
    """Rows of a reader that report that they are read."""

    def __init__(self, reader: Reader, table: str, field: str, progress: Progress) -> None:
        self._rows, self._progress = reader.rows(table, field), progress
        self.shape = self._rows.shape

    def __getitem__(self, rows: slice) -> Tensor:
        found = self._rows[rows]
        self._progress(len(found))
        return found


def _blocks(reader: Reader, entry: TableEntry, field: str) -> Iterator[Tensor]:
    at_once = block_rows({field: entry.fields[field]})
    for start in range(0, entry.vocabulary_size, at_once):
        yield reader.read(entry.name, field, start, min(start + at_once, entry.vocabulary_size))


def count_rows(reader: Reader) -> int:
    """Rows of all fields of all tables, for a progress bar."""
    return sum(entry.vocabulary_size * len(entry.fields) for entry in reader.tables.values())


def count_files(directory: Path, step: int | None) -> int:
    """Files that `verify` hashes, as far as the indexes can be read, for a progress bar."""
    directory, count = run_directory(directory), 0
    for each in complete_steps(directory) if step is None else [step]:
        try:
            count += len(StepFiles(directory, each).index.files)
        except CheckpointError:
            continue
    return count

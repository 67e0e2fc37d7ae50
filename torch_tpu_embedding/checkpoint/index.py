"""The index of a step: which rows lie in which file, and what every file must hash to.

A JSON file that readers of Hugging Face's sharded checkpoints understand (`metadata`, `weight_map`), with
everything of ours under `checkpoint`, and a SHA-256 of all of it. Letters: V vocabulary, S shards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import REMEDY, CheckpointError
from .regular import read_regular

FORMAT = "torch_tpu_embedding"
VERSION = 1
IDS = "ids"
"""The field of a delta that lists the changed ids."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class TableEntry:
    """One table of a checkpoint."""

    name: str
    vocabulary_size: int
    dim: int
    fields: Mapping[str, int]
    """'weight' and the slots → numbers a row."""
    optimizer: Mapping[str, Any] | None = None
    """Class and options, as `config_to_dict` writes them; None if not known."""
    dtype: str = "float32"

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(name for name in self.fields if name != "weight")

    @property
    def optimizer_name(self) -> str:
        return str(self.optimizer["class"]) if self.optimizer else "no known optimizer"


@dataclass(frozen=True)
class Piece:
    """Some rows of one field of one table: one tensor of one file."""

    file: str
    key: str
    table: str
    field: str
    ids: range
    """The ids of these rows; in a delta, the ids of the shard that wrote it."""
    rows: int
    start: int | None = None
    """In a delta, the place of the first of these rows in the shard's list of changed rows."""

    def to_json(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "file": self.file, "key": self.key, "table": self.table, "field": self.field,
            "first_id": self.ids.start, "id_step": self.ids.step, "rows": self.rows,
        }  # fmt: skip
        if self.start is not None:
            described.update(start=self.start, shard_rows=len(self.ids))
        return described

    @staticmethod
    def from_json(described: Mapping[str, Any]) -> Piece:
        first, step = int(described["first_id"]), int(described["id_step"])
        start = described.get("start")
        count = int(described["rows"] if start is None else described["shard_rows"])
        if first < 0 or step < 1 or count < 1 or not (start or 0) >= 0:
            raise ValueError(f"a piece with first id {first}, id step {step}, {count} rows")
        return Piece(
            file=str(described["file"]),
            key=str(described["key"]),
            table=str(described["table"]),
            field=str(described["field"]),
            ids=range(first, first + count * step, step),
            rows=int(described["rows"]),
            start=start,
        )


@dataclass(frozen=True)
class FileEntry:
    """What a file must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Base:
    """The step that a delta stands on."""

    step: int
    save_id: str


@dataclass(frozen=True)
class Index:
    """Everything about one step but the rows."""

    step: int
    save_id: str
    """Random; another save of the same step has another."""
    strategy: str
    num_shards: int
    tables: Mapping[str, TableEntry]
    pieces: tuple[Piece, ...]
    files: Mapping[str, FileEntry]
    extra: str | None = None
    """The file with what the caller added."""
    base: Base | None = None

    def to_text(self) -> str:
        """The index as JSON."""
        body: dict[str, Any] = {
            "metadata": {"total_size": sum(entry.bytes for entry in self.files.values())},
            "weight_map": {piece.key: piece.file for piece in self.pieces},
            "checkpoint": {
                "format": FORMAT,
                "version": VERSION,
                "step": self.step,
                "save_id": self.save_id,
                "strategy": self.strategy,
                "num_shards": self.num_shards,
                "base": asdict(self.base) if self.base else None,
                "tables": {
                    name: {**vars(entry), "fields": dict(entry.fields)}
                    for name, entry in self.tables.items()
                },
                "pieces": [piece.to_json() for piece in self.pieces],
                "files": {name: vars(entry) for name, entry in self.files.items()},
                "extra": self.extra,
            },
        }
        return json.dumps({**body, "sha256": _digest(body)}, indent=1)


def read_index(path: Path) -> Index:
    """The index at `path`, its own hash checked.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    try:
        body = json.loads(read_regular(path))
        stated = body.pop("sha256", None)
        ours = body.get("checkpoint", {})
        found = ours.get("format"), ours.get("version")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no index, so this step was never finished; {REMEDY}"
        ) from None
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: damaged, not readable as JSON ({error}); {REMEDY}"
        ) from error
    if found[0] != FORMAT:
        raise CheckpointError(
            f"{path}: foreign, an index of format {found[0]!r}, not {FORMAT!r}; give the directory "
            "that checkpoint.save wrote"
        )
    if found[1] != VERSION:
        raise CheckpointError(
            f"{path}: format version {found[1]!r}, but this version reads {VERSION}; install the "
            "version of torch_tpu_embedding that wrote it"
        )
    if stated != _digest(body):
        raise CheckpointError(f"{path}: damaged, it does not hash to its own sha256; {REMEDY}")
    try:
        index = _from_json(ours)
        for name in [*index.files, *(piece.file for piece in index.pieces)]:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"file name {name!r} leaves the directory")
        for piece in index.pieces:
            if piece.field not in {IDS, *index.tables[piece.table].fields}:
                raise ValueError(f"{piece.key!r} is of no field of table {piece.table!r}")
        if unlisted := {piece.file for piece in index.pieces} - set(index.files):
            raise ValueError(f"no size and hash of {sorted(unlisted)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a valid index ({error}); {REMEDY}") from error
    return index


def _from_json(ours: Mapping[str, Any]) -> Index:
    if ours["extra"] is not None and ours["extra"] not in ours["files"]:
        raise ValueError(f"no size and hash of {ours['extra']!r}")
    tables = {name: TableEntry(**fields) for name, fields in ours["tables"].items()}
    for name, entry in tables.items():
        if entry.name != name or entry.fields.get("weight") != entry.dim:
            raise ValueError(f"table {name!r} of dim {entry.dim} has fields {dict(entry.fields)}")
    return Index(
        step=int(ours["step"]),
        save_id=str(ours["save_id"]),
        strategy=str(ours["strategy"]),
        num_shards=int(ours["num_shards"]),
        tables=tables,
        pieces=tuple(Piece.from_json(piece) for piece in ours["pieces"]),
        files={name: FileEntry(**fields) for name, fields in ours["files"].items()},
        extra=ours["extra"],
        base=Base(**ours["base"]) if ours["base"] else None,
    )


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_coverage(held: Iterable[range], vocabulary_size: int, complete: bool) -> str | None:
    """What is wrong with a division of the ids 0 … V-1 into ranges, or None.

    Args:
        held: the ranges, none empty; all have the same step.
        complete: every id must be in one range; otherwise, in at most one.
    """
    by_residue: dict[int, list[range]] = {}
    steps = set()
    for ids in held:
        steps.add(ids.step)
        by_residue.setdefault(ids.start % ids.step, []).append(ids)
    if not steps:
        return "no rows at all" if complete else None
    if len(steps) > 1:
        return f"pieces of different id steps {sorted(steps)}"
    (step,) = steps
    if complete and len(by_residue) != min(step, vocabulary_size):
        missing = next(r for r in range(min(step, vocabulary_size)) if r not in by_residue)
        return f"id {missing} is missing"
    for residue, ranges in by_residue.items():
        following = residue
        for ids in sorted(ranges, key=lambda each: each.start):
            if ids.start < following:
                return f"id {ids.start} is there twice"
            if complete and ids.start > following:
                return f"id {following} is missing"
            following = ids[-1] + step
        if following - step >= vocabulary_size:
            return f"id {following - step} is beyond the vocabulary of {vocabulary_size}"
        if complete and following < vocabulary_size:
            return f"id {following} is missing"
    return None

"""The index of a step: which rows lie in which file, and the hash that every file must have.

A JSON file that readers of Hugging Face's sharded checkpoints understand (`metadata`, `weight_map`), with
everything of ours under `checkpoint`, and a SHA-256 of all of it. Letters: V vocabulary, S shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...io import json_checks
from ...io.json_checks import shown
from ...vocabularies.saved_maps import MapHead
from ..errors import REMEDY, CheckpointError
from .map_columns import DTYPES, head_from_json, head_to_json, map_fields
from .regular import read_regular
from .schema import check_index

FORMAT = "torch_tpu_embedding"
VERSION = 1
IDS = "ids"
"""The field of a delta that lists the changed ids."""


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
    """The dtype of the weights, 'float32' or 'bfloat16'."""
    slot_dtype: str = "float32"
    """The dtype of slots of several numbers a row; slots of one number a row are float32."""
    vocabulary: Mapping[str, Any] | None = None
    """Class and options of what finds the row of an id; None if ids are row numbers."""
    map: MapHead | None = None
    """The part of the map from ids to rows that is not row by row; None without a map in fields."""

    def to_json(self) -> dict[str, Any]:
        described = {**vars(self), "fields": dict(self.fields)}
        if self.vocabulary is None:
            del described["vocabulary"]
        if self.slot_dtype == "float32":
            del described["slot_dtype"]
        del described["map"]
        return described if self.map is None else {**described, "map": head_to_json(self.map)}

    @property
    def map_fields(self) -> dict[str, int]:
        """The fields of the map, and their numbers a row, 0 for a vector."""
        return map_fields(self.map)

    def dtype_of(self, field: str) -> str:
        """The dtype of a field, 'float32' or 'bfloat16'."""
        if field == "weight":
            return self.dtype
        return self.slot_dtype if self.fields.get(field, 1) > 1 else "float32"

    def stored_dtype(self, field: str) -> str:
        """The dtype of the tensors of any field, as safetensors names it."""
        if field in self.fields:
            return "BF16" if self.dtype_of(field) == "bfloat16" else "F32"
        return "I64" if field == IDS else DTYPES[field]

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
    """In a delta, the position of the first of these rows in the shard's list of changed rows."""

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
        """The piece that a parsed JSON value, already checked against the schema, describes."""
        first, step = described["first_id"], described["id_step"]
        start = described.get("start")
        count = described["rows"] if start is None else described["shard_rows"]
        return Piece(
            file=described["file"],
            key=described["key"],
            table=described["table"],
            field=described["field"],
            ids=range(first, first + count * step, step),
            rows=described["rows"],
            start=start,
        )


@dataclass(frozen=True)
class FileEntry:
    """The size and the hash that a file must have."""

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
    """Random hex digits; no two saves, even of one step, have the same."""
    strategy: str
    num_shards: int
    tables: Mapping[str, TableEntry]
    pieces: tuple[Piece, ...]
    files: Mapping[str, FileEntry]
    extra: str | None = None
    """The name of the extra file, if the step has one."""
    base: Base | None = None
    updates: int | None = None
    """The number of updates of the tables, on which the random bits of rounding depend; None if no table
    is rounded, or the step is older than this entry."""

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
                "tables": {name: entry.to_json() for name, entry in self.tables.items()},
                "pieces": [piece.to_json() for piece in self.pieces],
                "files": {name: vars(entry) for name, entry in self.files.items()},
                "extra": self.extra,
                **({} if self.updates is None else {"updates": self.updates}),
            },
        }
        return json.dumps({**body, "sha256": _digest(body)}, indent=1)


def read_index(path: Path) -> Index:
    """The index at `path`, its own hash checked.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    try:
        body = json_checks.parse(read_regular(path))
        json_checks.fields({}, {"checkpoint": json_checks.fields({})})(body, "")
        stated = body.pop("sha256", None)
        found = _digest(body)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no index, so this step was never finished; {REMEDY}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: damaged, not readable as JSON ({error}); {REMEDY}"
        ) from None
    ours = body.get("checkpoint", {})
    if ours.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: foreign, an index of format {shown(ours.get('format'))}, not {FORMAT!r}; give the "
            "directory that checkpoint.save wrote"
        )
    version = ours.get("version")
    if type(version) is not int or version != VERSION:
        raise CheckpointError(
            f"{path}: format version {shown(version)}, but this version reads {VERSION}; install the "
            "version of torch_tpu_embedding that wrote it"
        )
    if stated != found:
        raise CheckpointError(f"{path}: damaged, it does not hash to its own sha256; {REMEDY}")
    try:
        check_index(body, "")
        index = _from_json(ours)
        _check_references(index)
    except ValueError as error:
        raise CheckpointError(f"{path}: not a valid index ({error}); {REMEDY}") from None
    return index


def _from_json(ours: Mapping[str, Any]) -> Index:
    """The index that a parsed JSON value, already checked against the schema, describes."""
    for position, piece in enumerate(ours["pieces"]):
        if ("start" in piece) != ("shard_rows" in piece):
            raise ValueError(
                f"checkpoint.pieces[{position}] has one of start and shard_rows, not both"
            )
    return Index(
        step=ours["step"],
        save_id=ours["save_id"],
        strategy=ours["strategy"],
        num_shards=ours["num_shards"],
        tables={
            name: TableEntry(
                each["name"],
                each["vocabulary_size"],
                each["dim"],
                each["fields"],
                each["optimizer"],
                each.get("dtype", "float32"),
                each.get("slot_dtype", "float32"),
                vocabulary=each.get("vocabulary"),
                map=head_from_json(each.get("map")),
            )
            for name, each in ours["tables"].items()
        },
        pieces=tuple(Piece.from_json(piece) for piece in ours["pieces"]),
        files={
            name: FileEntry(each["bytes"], each["sha256"]) for name, each in ours["files"].items()
        },
        extra=ours["extra"],
        base=Base(ours["base"]["step"], ours["base"]["save_id"]) if ours["base"] else None,
        updates=ours.get("updates"),
    )


def _check_references(index: Index) -> None:
    """Raise ValueError where entries, each of the right form, do not fit one another."""
    for name, entry in index.tables.items():
        if entry.name != name or entry.fields.get("weight") != entry.dim:
            raise ValueError(f"table {name!r} of dim {entry.dim} has fields {dict(entry.fields)}")
        head = entry.map
        if head is not None and len(head.sightings) != head.num_shards * head.devices:
            raise ValueError(f"table {name!r}: a map of {len(head.sightings)} devices")
    if index.extra is not None and index.extra not in index.files:
        raise ValueError(f"no size and hash of {index.extra!r}")
    if index.base is not None and index.base.step >= index.step:
        raise ValueError(f"a delta on step {index.base.step}, which is not before it")
    for position, piece in enumerate(index.pieces):
        where, table = f"checkpoint.pieces[{position}]", index.tables.get(piece.table)
        if table is None:
            raise ValueError(f"{where} is of table {piece.table!r}, which is not there")
        if piece.field not in {IDS, *table.fields, *table.map_fields}:
            raise ValueError(f"{where} is of no field of table {piece.table!r}: {piece.field!r}")
        if piece.start is not None and piece.field in {*table.map_fields} - {*table.fields}:
            raise ValueError(f"{where}: some rows of a field that is there whole: {piece.field!r}")
        if piece.file not in index.files:
            raise ValueError(f"{where}: no size and hash of {piece.file!r}")
        if piece.ids[-1] >= table.vocabulary_size:
            raise ValueError(f"{where}: id {piece.ids[-1]} of {table.vocabulary_size} rows")
        if piece.start is not None and piece.start + piece.rows > len(piece.ids):
            raise ValueError(f"{where}: {piece.start} + {piece.rows} of {len(piece.ids)} rows")


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_coverage(id_ranges: Iterable[range], vocabulary_size: int, complete: bool) -> str | None:
    """The fault of a division of the ids 0 … V-1 into ranges, as text, or None.

    Args:
        id_ranges: the ranges, none empty; all have the same step.
        complete: every id must be in one range; otherwise, in at most one.
    """
    by_residue: dict[int, list[range]] = {}
    steps = set()
    for ids in id_ranges:
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

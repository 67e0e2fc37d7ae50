"""The tables and fields of a checkpoint that go into an embedding, and everything that does not fit.

Letter: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ...config.resolved import WEIGHT, Table
from ...config.vocabulary import DynamicVocabulary, HashedVocabulary, vocabulary_difference
from ..format.index import TableEntry
from ..rows import field_widths
from .reader import Reader


@dataclass(frozen=True)
class TableMatch:
    """One table to be loaded."""

    number: int
    """The position of the table among those of the embedding."""
    source: str
    """The name of the table in the checkpoint."""
    fields: tuple[str, ...]
    rows: int
    """The number of rows to be loaded: the ids below it."""
    is_whole: bool
    """True if the table is, after the load, exactly the table of the checkpoint."""
    rounded: tuple[str, ...]
    """The fields that are float32 in the checkpoint and bfloat16 in the table."""


def match_tables(
    tables: Sequence[Table],
    reader: Reader,
    chosen: Sequence[str] | None,
    rename: Mapping[str, str],
    resize: bool,
    slots: str,
    dtype: str,
) -> list[TableMatch]:
    """Match by name; arguments as in `load`.

    Raises:
        ValueError: all that does not fit, a line each, with the argument that permits it.
    """
    where = f"step {reader.step}"
    if unknown := sorted(set(rename) - set(reader.tables)):
        raise ValueError(
            f"rename: {where} holds no tables {unknown}; it holds {sorted(reader.tables)}"
        )
    sources = {rename.get(name, name): name for name in reader.tables}
    if len(sources) < len(reader.tables):
        raise ValueError(f"rename: two tables of {where} would have one name; rename both")
    names = [table.name for table in tables]
    if chosen is not None and (unknown := sorted(set(chosen) - set(names))):
        raise ValueError(f"tables: the embedding holds no {unknown}; it holds {sorted(names)}")
    wanted = names if chosen is None else chosen
    problems = [
        f"table {name!r} is not in {where}, which holds {sorted(sources)}; pass tables=[…] for those "
        "to load, or rename={…}"
        for name in wanted
        if name not in sources
    ]
    if chosen is None and (extra := sorted(set(sources) - set(names))):
        problems.append(
            f"{where} holds tables {extra} that the embedding has not; pass tables={names} to load the "
            "others only, or rename={…}"
        )
    matches = []
    for number, table in enumerate(tables):
        if table.name in wanted and table.name in sources:
            entry = reader.tables[sources[table.name]]
            found = _problems(table, entry, resize, slots, dtype)
            problems += found
            if not found:
                matches.append(_match(number, table, entry, slots))
    if problems:
        raise ValueError("\n\t".join([f"checkpoint.load of {where}:", *problems]))
    return matches


def _problems(table: Table, entry: TableEntry, resize: bool, slots: str, dtype: str) -> list[str]:
    found = []
    if entry.dtype != table.dtype_name and dtype == "require":
        how = "as the same numbers" if entry.dtype == "bfloat16" else "rounded to nearest"
        found.append(
            f"table {table.name!r}: {entry.dtype} in the checkpoint, {table.dtype_name} in the embedding; "
            f"pass dtype='convert' to load it {how}"
        )
    both = [name for name in table.slot_names if name in entry.fields and slots != "skip"]
    if (others := _other_dtypes(table, entry, both)) and dtype == "require":
        found.append(
            f"table {table.name!r}: slots {others} are {entry.slot_dtype} in the checkpoint, "
            f"{table.slot_dtype_name} in the embedding; pass dtype='convert' to load them too, or "
            "slots='skip' for the weights alone"
        )
    if entry.dim != table.dim:
        found.append(
            f"table {table.name!r}: dim {entry.dim} in the checkpoint, {table.dim} in the embedding; "
            "give TableConfig the same dim, or leave the table out with tables=[…]"
        )
    resizable = not isinstance(table.config.vocabulary, HashedVocabulary)
    is_live = isinstance(table.config.vocabulary, DynamicVocabulary)
    some = "the ids that are used most" if is_live else "the ids that both have"
    numbered = is_numbered(table, entry)
    if numbered:
        found += _too_many(table, entry) if not resize else []
    elif entry.vocabulary_size != table.vocabulary_size and not resize and resizable:
        found.append(
            f"table {table.name!r}: vocabulary_size {entry.vocabulary_size} in the checkpoint, "
            f"{table.vocabulary_size} in the embedding; pass resize='allow' to load {some}"
        )
    difference = vocabulary_difference(entry.vocabulary, table.config.vocabulary, "the checkpoint")
    if difference and not numbered:
        found.append(
            f"table {table.name!r}: {difference}; give its TableConfig the same vocabulary, or "
            "leave the table out with tables=[…]"
        )
    elif not resizable and entry.vocabulary_size != table.vocabulary_size:
        found.append(
            f"table {table.name!r}: the hash finds other rows among {table.vocabulary_size} than among the "
            f"{entry.vocabulary_size} of the checkpoint; give TableConfig as many rows, or leave the table "
            "out with tables=[…]"
        )
    widths = field_widths(table)
    differ = [name for name in entry.slots if entry.fields[name] != widths.get(name)]
    differ += [name for name in table.slot_names if name not in entry.fields]
    if slots == "require" and differ:
        mine = type(table.optimizer).__name__ if table.optimizer else "no optimizer"
        found.append(
            f"table {table.name!r}: saved with {entry.optimizer_name} (slots "
            f"{_shown(entry.fields)}), but the embedding has {mine} (slots {_shown(widths)}); pass "
            "slots='skip' for the weights alone, or 'match' for the slots that both have"
        )
    return found


def is_numbered(table: Table, entry: TableEntry) -> bool:
    """True for a table with a DynamicVocabulary whose ids were row numbers when it was saved."""
    return entry.vocabulary is None and isinstance(table.config.vocabulary, DynamicVocabulary)


def _too_many(table: Table, entry: TableEntry) -> list[str]:
    """Why not all row numbers of a saved table can be ids here."""
    vocabulary = table.config.vocabulary
    assert isinstance(vocabulary, DynamicVocabulary)
    wanted = entry.vocabulary_size + vocabulary.oov_rows
    if wanted <= table.vocabulary_size:
        return []
    return [
        f"table {table.name!r}: the {entry.vocabulary_size} row numbers of the checkpoint become ids, for "
        f"which the embedding has {table.vocabulary_size - vocabulary.oov_rows} rows beside its "
        f"{vocabulary.oov_rows} oov_rows; give TableConfig {wanted} rows or more, or pass "
        "resize='allow' to leave the highest out"
    ]


def _match(number: int, table: Table, entry: TableEntry, slots: str) -> TableMatch:
    widths = field_widths(table)
    shared = tuple(
        name
        for name, width in widths.items()
        if name == WEIGHT or (slots != "skip" and entry.fields.get(name) == width)
    )
    return TableMatch(
        number,
        entry.name,
        shared,
        min(table.vocabulary_size, entry.vocabulary_size),
        shared == (*widths,)
        and {*shared} == {*entry.fields}
        and entry.vocabulary_size == table.vocabulary_size
        and not _other_dtypes(table, entry, shared)
        and entry.name == table.name,
        tuple(n for n in _other_dtypes(table, entry, shared) if entry.dtype_of(n) == "float32"),
    )


def _other_dtypes(table: Table, entry: TableEntry, fields: Iterable[str]) -> list[str]:
    """The names of the fields that have another dtype in the checkpoint than in the table."""
    names = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
    return [name for name in fields if entry.dtype_of(name) != names[table.dtype_of(name)]]


def _shown(fields: Mapping[str, int]) -> str:
    slots = [f"{name} of width {width}" for name, width in fields.items() if name != WEIGHT]
    return ", ".join(slots) or "none"

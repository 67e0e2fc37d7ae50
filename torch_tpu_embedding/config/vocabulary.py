"""The user's choice of how ids become rows of a table, where they are not row numbers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

HASH = "splitmix64"
"""The name of the hash from an id to a row, as checkpoints record it."""


@dataclass(frozen=True)
class HashedVocabulary:
    """Any int64 id, by hash: each id has k rows of the table and shares them with others; nothing is kept.

        items = tte.TableConfig(1_000_000, 64, name="items", vocabulary=tte.HashedVocabulary())

    With one hash function two ids that meet in a row share all of it. With k of them the vector of an id is
    the sum of k rows, and two ids share all only if all k meet (hash embeddings, Svenstrup et al. 2017,
    with weights of 1); a lookup then reads k rows.

    Args:
        hash_functions: k, at least 1.
        seed: of the hash functions, at least 0; another seed is another map from ids to rows.

    Raises:
        ValueError: an argument is out of range.
    """

    hash_functions: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("hash_functions", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"HashedVocabulary: {name} must be an int of at least {least}, got {value!r}"
                )


@dataclass(frozen=True)
class DynamicVocabulary:
    """Any int64 id: an id has a row of its own once it was seen often enough, until others need it more.

        items = tte.TableConfig(1_000_000, 64, name="items", vocabulary=tte.DynamicVocabulary(admission=2))

    Ids without a row share the rows 0 … oov_rows - 1, by hash, in training and in inference. A row that an
    id is given starts from the table's initializer for that id, with fresh slots.

    Args:
        eviction: the rule by which a full table makes room: 'lru' takes the row that was used longest ago,
            'lfu' the one that the fewest training batches used; None gives no more rows.
        admission: the number of times that training must see an id before it has a row, 1 … 255; counted in
            a sketch of 2 bytes a row, which may count an id too often and never too seldom.
        oov_rows: the number of shared rows, at least 1.
        max_age: the number of training batches without it after which an id loses its row; None for no end.

    Raises:
        ValueError: an argument is out of range.
    """

    eviction: str | None = "lru"
    admission: int = 1
    oov_rows: int = 1
    max_age: int | None = None

    def __post_init__(self) -> None:
        if self.eviction not in ("lru", "lfu", None):
            raise ValueError(
                f"DynamicVocabulary: eviction must be 'lru', 'lfu' or None, got {self.eviction!r}"
            )
        for name, most in (("admission", 255), ("oov_rows", 2**30), ("max_age", 2**31 - 1)):
            value = getattr(self, name)
            if name == "max_age" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ValueError(
                    f"DynamicVocabulary: {name} must be an int in [1, {most}], got {value!r}"
                )


Vocabulary = HashedVocabulary | DynamicVocabulary


def vocabulary_to_dict(vocabulary: Vocabulary | None) -> dict[str, Any] | None:
    """Class, hash and options of a vocabulary, ready for JSON; None where ids are row numbers."""
    if vocabulary is None:
        return None
    hashed = {"hash": HASH} if isinstance(vocabulary, HashedVocabulary) else {}
    return {"class": type(vocabulary).__name__, **hashed, **asdict(vocabulary)}


def vocabulary_difference(found: object, vocabulary: Vocabulary | None, where: str) -> str | None:
    """Text that says how a saved table's way from ids to rows differs from that of its config; or None.

    Args:
        found: what was saved, as `vocabulary_to_dict` describes it; None too where nothing was saved.
        where: what it was saved in.
    """
    wanted = vocabulary_to_dict(vocabulary)
    if found == wanted:
        return None
    if isinstance(vocabulary, DynamicVocabulary) and isinstance(found, Mapping):
        same = ("class", "oov_rows")  # the rules by which ids come and go may change
        if wanted is not None and all(found.get(name) == wanted[name] for name in same):
            return None
    return f"its rows were found by {_shown(found)} in {where}, but by {_shown(wanted)} here"


def _shown(described: object) -> str:
    if not isinstance(described, Mapping):
        return "their numbers"
    fields = [f"{key}={value!r}" for key, value in described.items() if key != "class"]
    return f"{described.get('class')}({', '.join(fields)})"


def vocabulary_from_dict(described: Mapping[str, Any] | None) -> Vocabulary | None:
    """The vocabulary that `vocabulary_to_dict` described.

    Raises:
        ValueError: this version has no such class or hash.
    """
    if described is None:
        return None
    fields = dict(described)
    kind = fields.pop("class"), fields.pop("hash", None)
    if kind == (DynamicVocabulary.__name__, None):
        return DynamicVocabulary(**fields)
    if kind != (HashedVocabulary.__name__, HASH):
        raise ValueError(f"config_from_dict: this version has no vocabulary {kind}")
    return HashedVocabulary(**fields)

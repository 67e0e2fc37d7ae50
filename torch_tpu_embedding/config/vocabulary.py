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


def vocabulary_to_dict(vocabulary: HashedVocabulary | None) -> dict[str, Any] | None:
    """Class, hash and options of a vocabulary, ready for JSON; None where ids are row numbers."""
    if vocabulary is None:
        return None
    return {"class": type(vocabulary).__name__, "hash": HASH, **asdict(vocabulary)}


def vocabulary_difference(
    found: object, vocabulary: HashedVocabulary | None, where: str
) -> str | None:
    """Text that says how a saved table's way from ids to rows differs from that of its config; or None.

    Args:
        found: what was saved, as `vocabulary_to_dict` describes it; None too where nothing was saved.
        where: what it was saved in.
    """
    wanted = vocabulary_to_dict(vocabulary)
    if found == wanted:
        return None
    return f"its rows were found by {_shown(found)} in {where}, but by {_shown(wanted)} here"


def _shown(described: object) -> str:
    if not isinstance(described, Mapping):
        return "their numbers"
    fields = [f"{key}={value!r}" for key, value in described.items() if key != "class"]
    return f"{described.get('class')}({', '.join(fields)})"


def vocabulary_from_dict(described: Mapping[str, Any] | None) -> HashedVocabulary | None:
    """The vocabulary that `vocabulary_to_dict` described.

    Raises:
        ValueError: this version has no such class or hash.
    """
    if described is None:
        return None
    fields = dict(described)
    kind = fields.pop("class"), fields.pop("hash")
    if kind != (HashedVocabulary.__name__, HASH):
        raise ValueError(f"config_from_dict: this version has no vocabulary {kind}")
    return HashedVocabulary(**fields)

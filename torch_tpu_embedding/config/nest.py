"""Nested structures of dicts, lists and tuples, flattened in `tf.nest` order (dict keys sorted)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_OF_MISSING = {
    "features": "; give each feature its ids, for samples without any as empty rows of a Ragged",
    "weights": "; give None for a feature without weights",
    "gradients": "; give None for a feature without a gradient",
}


def flatten_with_paths(structure: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(path, leaf)` of a nest; the path joins keys and positions with '/'.

    >>> list(flatten_with_paths({"b": [1, 2], "a": 0}))
    [('a', 0), ('b/0', 1), ('b/1', 2)]
    """
    if isinstance(structure, Mapping):
        for key in _sorted_keys(structure, path):
            yield from flatten_with_paths(structure[key], _join(path, key))
    elif isinstance(structure, (list, tuple)):
        for position, item in enumerate(structure):
            yield from flatten_with_paths(item, _join(path, position))
    else:
        yield path, structure


def flatten_like(
    template: Any,
    structure: Any,
    what: str,
    path: str = "",
    *,
    containers_are_leaves: bool = False,
) -> list[Any]:
    """The items of `structure` at the positions where `template` has its leaves.

    Args:
        template: the nest that gives the positions, for example the feature configuration.
        structure: the nest to read; anything may stand where the template has a leaf.
        what: the name of `structure` in error messages.
        containers_are_leaves: True if a container may stand where the template has a leaf.

    Raises:
        TypeError: a container has another type than the template's.
        ValueError: a container has other keys or another length.
    """
    if isinstance(template, Mapping):
        _check_keys(template, structure, what, path)
        parts = [(key, template[key], structure[key]) for key in _sorted_keys(template, path)]
    elif isinstance(template, (list, tuple)):
        if type(structure) is not type(template):
            raise TypeError(_other_type(what, path, f"a {type(template).__name__}", structure))
        if len(structure) != len(template):
            raise ValueError(
                f"{_at(what, path)} must have {len(template)} items like feature_config, "
                f"got {len(structure)}"
            )
        parts = [(k, template[k], structure[k]) for k in range(len(template))]
    else:
        if isinstance(structure, (Mapping, list, tuple)) and not containers_are_leaves:
            remedy = ""
            if what in ("features", "weights") and not isinstance(structure, Mapping):
                remedy = (
                    "; make lists a Ragged with Ragged.from_lists, or a tensor with torch.tensor"
                )
            raise TypeError(
                _other_type(what, path, "one item, not a container", structure) + remedy
            )
        return [structure]
    return [
        leaf
        for key, inner, part in parts
        for leaf in flatten_like(
            inner, part, what, _join(path, key), containers_are_leaves=containers_are_leaves
        )
    ]


def _check_keys(template: Mapping[Any, Any], structure: Any, what: str, path: str) -> None:
    """Raise the error of `flatten_like` unless `structure` is a dict with the keys of `template`."""
    if not isinstance(structure, Mapping):
        raise TypeError(_other_type(what, path, "a dict", structure))
    if set(structure) == set(template):
        return
    missing = sorted(map(str, set(template) - set(structure)))
    unexpected = sorted(map(str, set(structure) - set(template)))
    remedy = ""
    if not (missing or path):
        remedy = f"; leave others out by {{key: {what}[key] for key in feature_config}}"
    elif missing and not unexpected:
        remedy = _OF_MISSING.get(what, "")
    raise ValueError(
        f"{_at(what, path)} must have the keys of feature_config: "
        f"missing {missing}, unexpected {unexpected}{remedy}"
    )


def prune_like(template: Any, structure: Any) -> Any:
    """`template` without the dict entries that `structure` does not have."""
    if isinstance(template, Mapping) and isinstance(structure, Mapping):
        return {
            key: prune_like(inner, structure[key])
            for key, inner in template.items()
            if key in structure
        }
    if isinstance(template, (list, tuple)) and type(structure) is type(template):
        if len(template) != len(structure):
            return template
        parts = [prune_like(t, s) for t, s in zip(template, structure, strict=True)]
        return type(template)(*parts) if hasattr(template, "_fields") else type(template)(parts)
    return template


def pack_like(template: Any, leaves: Sequence[Any]) -> Any:
    """Rebuild the nest of `template` around `leaves`, given in flattening order."""
    packed, used = _pack(template, leaves, 0)
    if used != len(leaves):
        raise AssertionError(f"{len(leaves)} leaves for a structure of {used}")
    return packed


def _pack(template: Any, leaves: Sequence[Any], at: int) -> tuple[Any, int]:
    if isinstance(template, Mapping):
        filled = {}
        for key in _sorted_keys(template, ""):
            filled[key], at = _pack(template[key], leaves, at)
        return {key: filled[key] for key in template}, at  # in the user's own key order
    if isinstance(template, (list, tuple)):
        items = []
        for item in template:
            packed, at = _pack(item, leaves, at)
            items.append(packed)
        if isinstance(template, tuple):
            named = hasattr(template, "_fields")
            return (type(template)(*items) if named else tuple(items)), at
        return items, at
    return leaves[at], at + 1


def _sorted_keys(mapping: Mapping[Any, Any], path: str) -> list[Any]:
    try:
        return sorted(mapping)
    except TypeError as error:
        keys = list(mapping)
        raise TypeError(
            f"the dict at {path or 'the top'!r} has keys that do not sort: {keys}"
        ) from error


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _at(what: str, path: str) -> str:
    return f"{what} at {path!r}" if path else what


def _other_type(what: str, path: str, wanted: str, got: object) -> str:
    return (
        f"{_at(what, path)} must be {wanted}, nested like feature_config, got {type(got).__name__}"
    )

"""TorchRec's KeyedJaggedTensor and JaggedTensor as inputs, told by their methods: torchrec is not imported.

Letters: B batch, F keys, N ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ..config.declared import FeatureConfig
from .entries import check_host
from .ragged import Ragged

_ONE = ("values", "lengths", "offsets", "weights_or_none")
_KEYED = ("keys", "values", "offsets", "stride", "weights_or_none")
_Pair = tuple[Any, Any]


def holds_jagged(features: object) -> bool:
    """True if a nest of inputs has a KeyedJaggedTensor or a JaggedTensor anywhere."""
    if isinstance(features, (Tensor, Ragged)):
        return False
    if isinstance(features, Mapping):
        return any(map(holds_jagged, features.values()))
    if isinstance(features, (list, tuple)):
        return any(map(holds_jagged, features))
    return _has(features, _KEYED) or _has(features, _ONE)


def is_keyed(value: object) -> bool:
    """True for a KeyedJaggedTensor."""
    return not isinstance(value, (Tensor, Ragged, Mapping, list, tuple)) and _has(value, _KEYED)


def split_jagged(features: Any, structure: Any = None, path: str = "") -> _Pair:
    """(ids, weights) of a nest of inputs, sharing their memory as far as possible.

    A KeyedJaggedTensor becomes a dict by key, or the list for which it stands; a JaggedTensor becomes a
    Ragged; other leaves have weights None.

    Args:
        structure: the nest of FeatureConfig.
        path: where the nest stands in a larger one, for messages.

    Raises:
        ValueError: its lengths, values, weights and inverse indices do not fit each other, a key is there
            twice, its keys are not the names of the features of a list, or a tensor is not on the host.
    """
    if isinstance(features, (Tensor, Ragged)):
        return features, None
    if isinstance(features, Mapping):
        by_key = structure if isinstance(structure, Mapping) else {}
        pairs = {
            key: split_jagged(part, by_key.get(key), f"{path}/{key}")
            for key, part in features.items()
        }
        return {k: pair[0] for k, pair in pairs.items()}, {k: pair[1] for k, pair in pairs.items()}
    if isinstance(features, (list, tuple)):
        inner = structure if isinstance(structure, (list, tuple)) else ()
        pieces = zip_longest(features, inner[: len(features)])
        parts = [
            split_jagged(part, of_part, f"{path}/{number}")
            for number, (part, of_part) in enumerate(pieces)
        ]
        return _like(features, [ids for ids, _ in parts]), _like(features, [w for _, w in parts])
    if _has(features, _KEYED):
        by_name, of_ids = _split_keyed(features)
        if not holds_list(structure):
            return by_name, of_ids
        names = names_of_list(structure, [*by_name], path)
        in_order = [by_name[name] for name in names], [of_ids[name] for name in names]
        return _like(structure, in_order[0]), _like(structure, in_order[1])
    if _has(features, _ONE):
        weights = features.weights_or_none()
        splits = _check_parts(f"JaggedTensor at {path[1:]!r}", features, weights)
        ids = Ragged(features.values(), splits)
        return ids, None if weights is None else Ragged(weights, splits)
    return features, None


def key_names(structure: Any) -> list[str] | None:
    """The keys of a KeyedJaggedTensor that stands for a dict or a list of features, in feature order; None
    if there is none that can."""
    if holds_list(structure):
        names = [each.name or "" for each in structure]
        return names if all(names) and len({*names}) == len(names) else None
    if not isinstance(structure, Mapping):
        return None
    plain = all(isinstance(k, str) and isinstance(v, FeatureConfig) for k, v in structure.items())
    return sorted(structure) if plain else None


def holds_list(structure: Any) -> bool:
    """True for a list or tuple of FeatureConfig, with no nest in it."""
    return isinstance(structure, (list, tuple)) and all(
        isinstance(each, FeatureConfig) for each in structure
    )


def names_of_list(structure: Sequence[FeatureConfig], keys: list[str], path: str = "") -> list[str]:
    """The names of the features of a list, by which a KeyedJaggedTensor stands for it.

    Args:
        keys: of the KeyedJaggedTensor.
        path: where the list stands in a nest.

    Raises:
        ValueError: a feature has no name, two have one name, or the names are not the keys.
    """
    where = f"features{f' at {path[1:]!r}' if path else ''}: a KeyedJaggedTensor"
    by_names = f"{where} stands for a list of features by their names"
    names = [each.name or "" for each in structure]
    unnamed = [number for number, name in enumerate(names) if not name]
    if unnamed:
        raise ValueError(
            f"{by_names}, but those at {unnamed} have none; give each its key, FeatureConfig(table, "
            f"name=key), or enqueue a list: [features[key] for key in {keys}], the keys in the order of "
            "feature_config"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{by_names}, but several are named {twice}; give each a name of its own, or enqueue a list: "
            f"[features[key] for key in {names}]"
        )
    missing, unexpected = sorted({*names} - {*keys}), sorted({*keys} - {*names})
    if missing or unexpected:
        remedy = f"leave others out by [features[key] for key in {names}]"
        if missing:
            remedy = "give each feature's key as its name, FeatureConfig(table, name=key)"
        if not unexpected:
            remedy = "give each feature its key, with lengths of 0 for samples without ids"
        raise ValueError(
            f"{where} must have the names of the features as keys: missing {missing}, unexpected "
            f"{unexpected}; {remedy}"
        )
    return names


def _like(container: Any, parts: list[Any]) -> Any:
    return type(container)(*parts) if hasattr(container, "_fields") else type(container)(parts)


def _has(value: object, methods: tuple[str, ...]) -> bool:
    return all(callable(getattr(value, method, None)) for method in methods)


@torch.enable_grad()  # type: ignore[no-untyped-call] # parts taken without it hide that they require grad
def _split_keyed(value: Any) -> tuple[dict[str, Ragged], dict[str, Ragged | None]]:
    keys, flat, weights = list(value.keys()), value.values(), value.weights_or_none()
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(
            f"KeyedJaggedTensor: key {twice!r} is there twice; give each key once, or the features under "
            "names of their own"
        )
    offsets = _check_parts("KeyedJaggedTensor", value, weights)
    inverse = _inverse_indices(value, keys)
    strides = _strides(value, keys, inverse)
    if sum(strides) != len(offsets) - 1:
        raise ValueError(
            f"KeyedJaggedTensor: {len(offsets) - 1} lengths, but its {len(keys)} keys have "
            f"{sum(strides)} samples together; give every key a length for every sample"
        )
    ids: dict[str, Ragged] = {}
    of_ids: dict[str, Ragged | None] = {}
    first = 0
    for key, stride in zip(keys, strides, strict=True):
        splits = offsets[first : first + stride + 1]
        first += stride
        start, stop = int(splits[0]), int(splits[-1])
        ids[key] = Ragged(flat[start:stop], splits - start)
        of_ids[key] = None if weights is None else Ragged(weights[start:stop], splits - start)
    if inverse is not None:
        for key, stride in zip(keys, strides, strict=True):
            _check_inverse(key, inverse[key], stride)
            ids[key] = ids[key][inverse[key]]
            expanded = of_ids[key]
            of_ids[key] = None if expanded is None else expanded[inverse[key]]
    return ids, of_ids


def _check_parts(what: str, value: Any, weights: Tensor | None) -> Tensor:
    """The offsets as int64, after making sure that they cover all values and weights."""
    values, offsets = value.values(), value.offsets()
    for part in (values, offsets, weights):
        if part is not None:
            check_host(what, part)
    offsets = torch.as_tensor(offsets, dtype=torch.int64, device="cpu")
    if not len(offsets):  # of no sample at all
        offsets = torch.zeros(1, dtype=torch.int64, device="cpu")
    lengths = getattr(value, "lengths", None)
    if callable(lengths) and not torch.equal(lengths().to(torch.int64), offsets.diff()):
        raise ValueError(
            f"{what}: its lengths are not those of its offsets; give one of the two alone"
        )
    first, last = int(offsets[0]), int(offsets[-1])
    if (first, last) != (0, len(values)):
        raise ValueError(
            f"{what}: its lengths cover the values from {first} to {last}, but it has {len(values)}; every "
            "value must belong to a sample"
        )
    if weights is not None and len(weights) != len(values):
        raise ValueError(
            f"{what}: {len(weights)} weights for {len(values)} values; give each value a weight"
        )
    return offsets


def _strides(value: Any, keys: list[str], inverse: dict[str, Tensor] | None) -> list[int]:
    """The number of samples of each key."""
    variable = getattr(value, "variable_stride_per_key", None)
    if not (callable(variable) and variable()):
        return [value.stride()] * len(keys)
    if inverse is None:
        raise ValueError(
            "KeyedJaggedTensor: every key must have the same number of samples; give a batch with "
            "variable stride per key its inverse_indices, or expand it first"
        )
    return list(value.stride_per_key())


def _inverse_indices(value: Any, keys: list[str]) -> dict[str, Tensor] | None:
    """Key → `[B]`: for each sample of the batch the one to take; None if there are no such indices."""
    read = getattr(value, "inverse_indices_or_none", None)
    given = read() if callable(read) else None
    if given is None or not given[1].numel():
        return None
    names, indices = given
    if indices.dim() != 2 or len(indices) != len(names) or not set(keys) <= set(names):
        raise ValueError(
            f"KeyedJaggedTensor: inverse_indices of shape {[*indices.shape]} for the keys {[*names]} do "
            f"not have one row for each of its keys {keys}"
        )
    return dict(zip(names, indices, strict=True))


def _check_inverse(key: str, samples: Tensor, stride: int) -> None:
    check_host("KeyedJaggedTensor: inverse_indices", samples)
    wrong = ((samples < 0) | (samples >= stride)).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"KeyedJaggedTensor: inverse_indices of key {key!r} have {int(samples[at])} for sample {at}, "
            f"but that key has {stride} samples"
        )

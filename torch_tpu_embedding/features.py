"""From one feature's input to bags of ids: kinds, shapes, ids and weights checked, combiners folded in.

All combiners become one operation, a weighted sum, by giving each id a *gain*: w for 'sum', w/Σw for
'mean', w/√Σw² for 'sqrtn', and 0 where the divisor is 0. Everything here runs on the host.
Letters: B batch, N ids, V vocabulary, L max_sequence_length.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import Feature, Table
from .ragged import Ragged

ID_BOUNDS = ("raise", "drop", "warn_and_drop")
NO_ID = -1
_ID_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Bags:
    """The checked ids of one feature.

    A *pooled* feature has N ids in any number per sample, each with its sample and gain. A *direct*
    feature (dense, or a sequence) has at most one id at each output position and needs neither.
    """

    ids: Tensor
    """`[N]` int64; direct: `[B]` or `[B * L]`, `NO_ID` where there is none."""
    sample: Tensor | None
    """`[N]` int64, rising: the sample of each id; None if direct."""
    gain: Tensor | None
    """`[N]` float32; None if direct."""
    batch_size: int
    """B."""


@dataclass(frozen=True)
class _Entries:
    """A sparse or ragged input in one form: each id with its sample and its position in the sample."""

    ids: Tensor
    sample: Tensor
    position: Tensor
    batch_size: int


def parse(
    feature: Feature,
    table: Table,
    value: object,
    weights: object = None,
    *,
    batch_size: int | None = None,
    id_bounds: str = "raise",
) -> Bags:
    """Check one feature's input and bring it into bags.

    Args:
        feature, table: what the ids look up.
        value: dense `[B]` or `[B, 1]`, sparse COO `[B, width]`, `Ragged`, or jagged nested tensor.
        weights: None, or the same kind with floating-point values at the same places.
        batch_size: B, if it is fixed.
        id_bounds: what an id outside [0, V) does: 'raise', 'drop' or 'warn_and_drop'.

    Raises:
        ValueError: naming the feature, its table, the value, its place, and what to do.
    """
    where = f"feature {feature.name!r} (table {table.name!r})"
    if _is_dense(value):
        return _parse_dense(where, feature, table, value, weights, batch_size, id_bounds)
    entries, splits = _entries(where, value)
    _check_batch(where, entries.batch_size, batch_size)
    gains = None
    if weights is not None:
        if feature.max_sequence_length > 0:
            raise ValueError(
                f"{where}: weights were given for a sequence feature, whose positions are not "
                "combined; pass None for its weights"
            )
        gains = _weights(where, value, weights, entries, splits)
    inside = _inside(where, table, entries.ids, entries.sample, entries.position, id_bounds)
    if inside is not None:
        entries = _Entries(
            entries.ids[inside],
            entries.sample[inside],
            entries.position[inside],
            entries.batch_size,
        )
        gains = gains[inside] if gains is not None else None
    if feature.max_sequence_length > 0:
        places = _sequence(where, entries, feature.max_sequence_length)
        return Bags(places, None, None, entries.batch_size)
    gain = _gain(where, entries, gains, table.combiner)
    return Bags(entries.ids, entries.sample, gain, entries.batch_size)


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_nested and value.layout == torch.strided


def _parse_dense(
    where: str,
    feature: Feature,
    table: Table,
    value: object,
    weights: object,
    batch_size: int | None,
    id_bounds: str,
) -> Bags:
    assert isinstance(value, Tensor)
    if weights is not None:
        raise ValueError(
            f"{where}: weights were given for a dense feature, where each id is a bag of its own; "
            "pass None for its weights, or the ids as Ragged or sparse"
        )
    if feature.max_sequence_length > 0:
        raise ValueError(
            f"{where}: a sequence feature (max_sequence_length={feature.max_sequence_length}) takes "
            "Ragged, jagged or sparse ids, got a dense tensor"
        )
    _check_ids(where, value)
    if value.dim() != 1 and not (value.dim() == 2 and value.shape[1] == 1):
        raise ValueError(
            f"{where}: a dense feature must have shape [B] or [B, 1], one id per sample, got "
            f"{[*value.shape]}; pass several ids per sample as Ragged or sparse"
        )
    ids = value.reshape(-1).to(torch.int64)
    _check_batch(where, len(ids), batch_size)
    inside = _inside(where, table, ids, None, None, id_bounds)
    return Bags(ids if inside is None else ids.where(inside, NO_ID), None, None, len(ids))


def _entries(where: str, value: object) -> tuple[_Entries, Tensor | None]:
    """The ids of a sparse or ragged input, sorted by sample, and the row splits if it has them."""
    ragged = _as_ragged(where, value)
    if ragged is not None:
        _check_ids(where, ragged.values)
        splits = ragged.row_splits.to(torch.int64)
        lengths = splits.diff()
        sample = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        position = torch.arange(len(sample)) - splits[:-1].repeat_interleave(lengths)
        ids = ragged.values.to(torch.int64)
        return _Entries(ids, sample, position, ragged.batch_size), splits
    if isinstance(value, Tensor) and value.layout == torch.sparse_coo:
        _check_sparse(where, value)
        _check_ids(where, value._values())
        order = _sample_order(value)
        sample, position = value._indices()[:, order]
        ids = value._values()[order].to(torch.int64)
        return _Entries(ids, sample, position, value.shape[0]), None
    got = f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"{where}: expected a dense tensor, a sparse COO tensor, a Ragged or a jagged nested tensor "
        f"(layout=torch.jagged) of ids, got {got}"
    )


def _as_ragged(where: str, value: object) -> Ragged | None:
    """Ragged and jagged inputs as Ragged; None for any other kind."""
    if isinstance(value, Ragged):
        return value
    if not (isinstance(value, Tensor) and value.is_nested and value.layout == torch.jagged):
        return None
    if value.dim() != 2:
        raise ValueError(
            f"{where}: a jagged tensor must have two dimensions [B, ids], got {value.dim()}"
        )
    _check_host(where, value)
    # torch's stubs do not know the accessors of jagged tensors
    values = value.values()
    offsets, lengths = value.offsets(), value.lengths()  # type: ignore[attr-defined]
    if lengths is None:
        return Ragged(values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])
    starts = offsets[: len(lengths)]  # a narrowed view: gaps lie between the samples
    inner = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(
        lengths
    )
    return Ragged.from_lengths(values[starts.repeat_interleave(lengths) + inner], lengths)


def _sample_order(value: Tensor) -> Tensor | slice:
    """What sorts the entries of a sparse tensor by sample and position.

    Never coalesce here: that would add up the ids of two entries at one place.
    """
    rows, columns = value._indices()
    key = rows * max(value.shape[1], 1) + columns
    if value.is_coalesced() or bool((key[1:] >= key[:-1]).all()):
        return slice(None)
    return torch.argsort(key, stable=True)


def _weights(
    where: str, value: object, weights: object, entries: _Entries, splits: Tensor | None
) -> Tensor:
    """The weights `[N]` float64, in the order of the entries."""
    ragged = _as_ragged(where, weights)
    if splits is not None and ragged is not None:
        if not torch.equal(ragged.row_splits.to(torch.int64), splits):
            other = ragged.row_splits.diff().tolist()
            pairs = zip(splits.diff().tolist(), other, strict=False)
            at = next((b for b, (n, m) in enumerate(pairs) if n != m), None)
            place = (
                f"{len(other)} samples instead of {len(splits) - 1}"
                if at is None
                else f"sample {at} has {int(splits.diff()[at])} ids and {other[at]} weights"
            )
            raise ValueError(f"{where}: weights must have the row splits of the ids: {place}")
        flat = ragged.values
    elif (
        splits is None
        and isinstance(weights, Tensor)
        and isinstance(value, Tensor)
        and weights.layout == torch.sparse_coo
    ):
        _check_sparse(where, weights)
        if weights.shape != value.shape or not torch.equal(weights._indices(), value._indices()):
            raise ValueError(
                f"{where}: sparse weights must have the shape and the indices of the ids, in the "
                f"same order; got shape {[*weights.shape]} with {weights._nnz()} entries for ids of "
                f"shape {[*value.shape]} with {value._nnz()}"
            )
        flat = weights._values()[_sample_order(value)]
    else:
        wanted = "a Ragged or jagged tensor" if splits is not None else "a sparse COO tensor"
        raise ValueError(
            f"{where}: weights must be {wanted}, the kind of its ids, got {type(weights).__name__}"
        )
    if not flat.dtype.is_floating_point:
        raise ValueError(f"{where}: weights must be floating point, got {flat.dtype}")
    if not bool(flat.isfinite().all()):
        at = int((~flat.isfinite()).nonzero()[0])
        raise ValueError(
            f"{where}: weight {float(flat[at])} at sample {int(entries.sample[at])}, position "
            f"{int(entries.position[at])} is not finite; clean the weights before enqueue"
        )
    return flat.to(torch.float64)


def _gain(where: str, entries: _Entries, weights: Tensor | None, combiner: str) -> Tensor:
    """The factor of each id in its bag's weighted sum, `[N]` float32."""
    w = torch.ones(len(entries.ids), dtype=torch.float64) if weights is None else weights
    if combiner == "sum":
        return w.to(torch.float32)
    zeros = torch.zeros(entries.batch_size, dtype=torch.float64)
    if combiner == "mean":
        divisor = zeros.index_add_(0, entries.sample, w)
    else:
        divisor = zeros.index_add_(0, entries.sample, w * w).sqrt_()
    divisor = divisor[entries.sample]
    gain = torch.where(divisor == 0, 0.0, w / divisor).to(torch.float32)
    if weights is not None and not bool(gain.isfinite().all()):
        at = int((~gain.isfinite()).nonzero()[0])
        raise ValueError(
            f"{where}: the weights of sample {int(entries.sample[at])} cancel to "
            f"{float(divisor[at])}, too little to divide by for combiner {combiner!r}; use 'sum' or "
            "larger weights"
        )
    return gain


def _sequence(where: str, entries: _Entries, length: int) -> Tensor:
    """Ids by place, `[B * L]`, `NO_ID` where the sample has none; what lies beyond L is cut."""
    kept = entries.position < length
    place = entries.sample[kept] * length + entries.position[kept]
    twice = (place[1:] == place[:-1]).nonzero()
    if len(twice):
        at = int(place[int(twice[0])])
        raise ValueError(
            f"{where}: two ids at sample {at // length}, position {at % length} of a sequence "
            "feature; give each entry of the sparse tensor its own column"
        )
    ids = torch.full((entries.batch_size * length,), NO_ID, dtype=torch.int64)
    ids[place] = entries.ids[kept]
    return ids


def _inside(
    where: str,
    table: Table,
    ids: Tensor,
    sample: Tensor | None,
    position: Tensor | None,
    id_bounds: str,
) -> Tensor | None:
    """None if all ids are in [0, V), else a mask of those that are; or the error."""
    if len(ids) == 0:
        return None
    low, high = torch.aminmax(ids)
    if int(low) >= 0 and int(high) < table.vocabulary_size:
        return None
    inside = (ids >= 0) & (ids < table.vocabulary_size)
    outside = (~inside).nonzero()[:, 0]
    at = int(outside[0])
    place = f"sample {at}"
    if sample is not None and position is not None:
        place = f"sample {int(sample[at])}, position {int(position[at])}"
    more = f" ({len(outside) - 1} more like it)" if len(outside) > 1 else ""
    found = f"{where}: id {int(ids[at])} at {place} is outside [0, {table.vocabulary_size}){more}"
    if id_bounds == "raise":
        raise ValueError(
            f"{found}; correct the ids, raise vocabulary_size, or choose id_bounds='drop' or "
            "'warn_and_drop'"
        )
    if id_bounds == "warn_and_drop":
        warnings.warn(f"{found}; dropped", RuntimeWarning, stacklevel=2)
    return inside


def _check_ids(where: str, ids: Tensor) -> None:
    if ids.dtype not in _ID_DTYPES:
        raise ValueError(
            f"{where}: ids must be integers (int64 or int32), got {ids.dtype}; convert them with "
            ".to(torch.int64) if that is what they are"
        )
    _check_host(where, ids)


def _check_host(where: str, value: Tensor) -> None:
    if value.device.type != "cpu":
        raise ValueError(
            f"{where}: input must be a host (CPU) tensor, got one on {value.device}; leave ids on "
            "the CPU, enqueue moves what the device needs"
        )


def _check_sparse(where: str, value: Tensor) -> None:
    _check_host(where, value)
    if value.sparse_dim() != 2 or value.dense_dim() != 0:
        raise ValueError(
            f"{where}: a sparse tensor must have shape [B, width] with scalar entries, got shape "
            f"{[*value.shape]} with {value.sparse_dim()} sparse dimensions"
        )


def _check_batch(where: str, got: int, wanted: int | None) -> None:
    if wanted is not None and got != wanted:
        raise ValueError(
            f"{where}: got {got} samples, but TPUEmbedding was built for batch_size={wanted}; pad "
            "or drop the last batch of an epoch"
        )

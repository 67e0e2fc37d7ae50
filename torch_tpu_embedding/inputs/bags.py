"""From one feature's input to bags of ids: shapes and ids checked, combiners folded into gains.

All combiners become one operation, a weighted sum, by giving each id a *gain*: w for 'sum', w/Σw for
'mean', w/√Σw² for 'sqrtn', and 0 where the divisor is 0. Everything here runs on the host.
Letters: B batch, N ids, V vocabulary, L max_sequence_length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config.resolved import Feature, Table
from ..runtime import host
from .entries import (
    SparseIds,
    bag_name,
    check_constant,
    check_ids,
    is_dense,
    read_sparse_ids,
    read_weights,
)
from .id_range import ids_to_keep

NO_ID = -1


@dataclass(frozen=True)
class Bags:
    """The checked ids of one feature.

    A *pooled* feature has bags of any number of ids, or of H each, and each id has a gain. A *one-hot*
    feature (dense, or a sequence) has at most one id for each output position, and no gains.
    """

    ids: Tensor
    """`[N]` int64; one-hot: one for each output position, `NO_ID` where there is none."""
    bag: Tensor | None
    """`[N]` int64, rising: the bag of each id, counted through `shape`; None if one-hot or fixed-length."""
    gain: Tensor | None
    """`[N]` float32; None if one-hot."""
    shape: tuple[int, ...]
    """The shape of the activations without D: `(B,)`, `(B, L)` or an output_shape."""
    num_ids: int = 0
    """The number of ids that `parse` kept, which are looked up; ids of padding_idx are not counted."""
    num_dropped: int = 0
    """The number of ids outside [0, V), which are not looked up."""
    raw_ids: Tensor | None = None
    """`[M]` int64: the ids of a table with a vocabulary as they were given; `ids` are positions in it."""
    length: int = 0
    """H of a fixed-length feature: positions in each bag, `NO_ID` where there is no id; 0 for others."""


def parse(
    feature: Feature,
    table: Table,
    value: object,
    weights: object = None,
    *,
    batch_size: int | None = None,
    output_shape: tuple[int, ...] | None = None,
    id_bounds: str = "raise",
    constant_weights: bool = False,
) -> Bags:
    """Check one feature's input and bring it into bags.

    Args:
        feature, table: what the ids look up.
        value: dense `[B]` or `[B, …, 1]`, sparse COO `[B, …, width]`, `Ragged`, or jagged.
        weights: None, or the same kind with floating-point values at the same positions; not looked at if
            the feature is not weighted.
        batch_size: B, if it is fixed; not looked at where there is an output_shape.
        output_shape: what the input must fill; None takes the shape of the input. A ragged input with
            one row for each output position is combined; with one for each k of them it is a sequence of k.
        id_bounds: what an id outside [0, V) does: 'raise', 'drop' or 'warn_and_drop'.
        constant_weights: True if weights that require grad are an error; else the gains are differentiable.

    Raises:
        ValueError: an input is wrong; names the feature, its table, the value, its position, and the
            remedy.
    """
    where = f"feature {feature.name!r} (table {table.name!r})"
    if not feature.config.is_weighted:
        weights = None
    if is_dense(value):
        return _parse_dense(
            where, feature, table, value, weights, batch_size, output_shape, id_bounds
        )
    sparse_ids = read_sparse_ids(where, value)
    length, shape = _output(where, feature, sparse_ids, batch_size, output_shape)
    gains = None
    if weights is not None:
        if length:
            raise ValueError(
                f"{where}: weights were given for a sequence feature, whose positions are not "
                "combined; pass None for its weights, or set is_weighted=False in its FeatureConfig"
            )
        if constant_weights:
            check_constant(where, weights)
        gains = read_weights(
            where, value, weights, sparse_ids, feature.config.validate_weights_and_indices
        )
    kept, dropped = ids_to_keep(where, table, sparse_ids.ids, sparse_ids, None, id_bounds)
    if kept is not None:
        sparse_ids = sparse_ids.select(kept)
        gains = gains[kept] if gains is not None else None
    raw = None
    if table.config.vocabulary is not None:
        raw, sparse_ids = sparse_ids.ids, sparse_ids.numbered()
    if length:
        ids, count = _sequence(where, sparse_ids, length)
        if raw is not None and count < len(raw):
            raw, ids = _looked_up(raw, ids)
        return Bags(ids, None, None, shape, count, dropped, raw)
    gain = _gain(
        where, sparse_ids, gains, table.combiner, feature.config.validate_weights_and_indices
    )
    return Bags(sparse_ids.ids, sparse_ids.bag, gain, shape, len(sparse_ids.ids), dropped, raw)


def bags_of_checked(feature: Feature, table: Table, ids: Tensor, splits: Tensor | None) -> Bags:
    """The bags that `parse` gives for ids without weights, each in [0, V), that are all looked up.

    Args:
        feature, table: what the ids look up; no table with a padding row or a vocabulary.
        ids: `[N]`. splits: the row splits of a ragged input, `[B + 1]`; None for a dense one.
    """
    ids, length = ids.to(torch.int64), feature.max_sequence_length
    if splits is None:
        return Bags(ids, None, None, (len(ids),), len(ids))
    sparse_ids = SparseIds(ids, (len(splits) - 1,), splits.to(torch.int64))
    if length:
        ids, count = _sequence(feature.name, sparse_ids, length)
        return Bags(ids, None, None, (*sparse_ids.outer, length), count)
    gain = _gain(feature.name, sparse_ids, None, table.combiner, False)
    return Bags(ids, sparse_ids.bag, gain, sparse_ids.outer, len(ids))


def split_bags(
    features: tuple[Feature, ...], bags: Sequence[Bags], parts: int
) -> list[Sequence[Bags]]:
    """Share the samples of a batch among the devices of a process, in order.

    Args:
        bags: one per feature. parts: devices.

    Raises:
        ValueError: the activations of a feature cannot be split evenly.
    """
    if parts == 1:
        return [bags]
    split: list[list[Bags]] = [[] for _ in range(parts)]
    for feature, each in zip(features, bags, strict=True):
        size, rest = divmod(each.shape[0], parts)
        if rest:
            raise ValueError(
                f"feature {feature.name!r}: activations of shape {[*each.shape]} (without dim) cannot "
                f"be split over the {parts} devices of this process; make their first size a multiple "
                f"of {parts}"
            )
        shape = (size, *each.shape[1:])
        positions = math.prod(shape)
        for part, of_part in enumerate(split):
            start = part * positions
            if each.bag is None or each.gain is None:
                of_part.append(Bags(each.ids[start : start + positions], None, None, shape))
                continue
            bounds = host.ints([start, start + positions])
            low, high = torch.searchsorted(each.bag, bounds).tolist()
            of_part.append(
                Bags(each.ids[low:high], each.bag[low:high] - start, each.gain[low:high], shape)
            )
    return [*split]


def _parse_dense(
    where: str,
    feature: Feature,
    table: Table,
    value: object,
    weights: object,
    batch_size: int | None,
    output_shape: tuple[int, ...] | None,
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
            "Ragged, jagged or sparse ids, got a dense tensor; Ragged.from_lists takes one of shape [B, L]"
        )
    check_ids(where, value)
    ids, shape = value, tuple(value.shape)
    if len(shape) != 1:
        if len(shape) == 0 or shape[-1] != 1:
            raise ValueError(
                f"{where}: a dense feature must have shape [B], [B, 1] or [B, …, 1], one id per position, "
                f"got {[*shape]}; add a last dimension of 1 for several activations per sample, or pass "
                "ids that are to be combined as Ragged or sparse (Ragged.from_lists takes a [B, n] tensor)"
            )
        ids, shape = value.reshape(-1), shape[:-1]
    if output_shape is not None:
        _check_shape(where, shape, output_shape)
    else:
        _check_batch(where, shape[0], batch_size)
    ids = ids.to(torch.int64)
    kept, dropped = ids_to_keep(where, table, ids, None, shape, id_bounds)
    raw = None
    if table.config.vocabulary is not None:
        raw, ids = ids, host.arange(len(ids))
    if kept is None:
        return Bags(ids, None, None, shape, ids.numel(), 0, raw)
    ids = ids.where(kept, NO_ID)
    if raw is not None:
        raw, ids = _looked_up(raw, ids)
    return Bags(ids, None, None, shape, int(kept.sum()), dropped, raw)


def _looked_up(raw: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The raw ids that are looked up, and positions in these, of positions in all: others are not seen."""
    kept = ids >= 0
    return raw[ids[kept]], (kept.cumsum(0) - 1).where(kept, NO_ID)


def _output(
    where: str,
    feature: Feature,
    sparse_ids: SparseIds,
    batch_size: int | None,
    output_shape: tuple[int, ...] | None,
) -> tuple[int, tuple[int, ...]]:
    """(sequence length or 0, shape of the activations without D) of a sparse or ragged input."""
    length, outer = feature.max_sequence_length, sparse_ids.outer
    if output_shape is not None and sparse_ids.splits is not None:
        positions, rows = math.prod(output_shape), outer[0]
        if rows == positions:
            return 0, output_shape
        if rows and positions % rows == 0:
            return positions // rows, output_shape
        raise ValueError(
            f"{where}: a ragged input of {rows} rows cannot fill the output shape "
            f"{[*output_shape]}: it needs {positions} rows to combine, or a divisor of that for sequences"
        )
    if output_shape is not None:
        _check_shape(where, outer, output_shape)
        return 0, outer
    _check_batch(where, outer[0], batch_size)
    if length and len(outer) > 1:
        raise ValueError(
            f"{where}: a sequence feature (max_sequence_length={length}) takes sparse ids of shape "
            f"[B, width], got rank {len(outer) + 1}; set max_sequence_length=0 to combine the last "
            "dimension"
        )
    return length, (*outer, length) if length else outer


def _gain(
    where: str, sparse_ids: SparseIds, weights: Tensor | None, combiner: str, check: bool
) -> Tensor:
    """The factor of each id in its bag's weighted sum, `[N]` float32."""
    if combiner == "sum":
        if weights is None:
            return torch.ones(1, dtype=torch.float32, device="cpu").expand(len(sparse_ids.ids))
        return weights.to(torch.float32)
    w = torch.ones_like(sparse_ids.ids, dtype=torch.float64) if weights is None else weights
    zeros = torch.zeros(math.prod(sparse_ids.outer), dtype=torch.float64, device="cpu")
    total = zeros.index_add_(0, sparse_ids.bag, w if combiner == "mean" else w * w)
    divisor = total.where(total != 0, math.inf)  # whose gradient is 0, as that of a gain of 0
    if combiner == "sqrtn":
        divisor = divisor.sqrt()
    gain = (w / divisor[sparse_ids.bag]).to(torch.float32)
    if check and weights is not None and not bool(gain.isfinite().all()):
        bag = int(sparse_ids.bag[int((~gain.isfinite()).nonzero()[0])])
        raise ValueError(
            f"{where}: the weights of {bag_name(bag, sparse_ids.outer)} cancel to "
            f"{float(divisor.detach()[bag])}, too little to divide by for combiner {combiner!r}; use 'sum' "
            "or larger weights"
        )
    return gain


def _sequence(where: str, sparse_ids: SparseIds, length: int) -> tuple[Tensor, int]:
    """The ids of a sequence, `[B * L]`, `NO_ID` where a sample has none; ids beyond L are left out.

    Also the number of ids that are kept.
    """
    if sparse_ids.given is None:
        ids, target = _first_ids(sparse_ids, length)
    else:
        kept = sparse_ids.position < length
        ids, target = (
            sparse_ids.ids[kept],
            sparse_ids.bag[kept] * length + sparse_ids.position[kept],
        )
        twice = (target[1:] == target[:-1]).nonzero()
        if len(twice):
            at = int(target[int(twice[0])])
            raise ValueError(
                f"{where}: two ids at sample {at // length}, position {at % length} of a sequence "
                "feature; give each entry of the sparse tensor its own column"
            )
    by_position = torch.full(
        (sparse_ids.outer[0] * length,), NO_ID, dtype=torch.int64, device="cpu"
    )
    return by_position.scatter_(0, target, ids), len(ids)


def _first_ids(sparse_ids: SparseIds, length: int) -> tuple[Tensor, Tensor]:
    """The first L ids of each sample of a ragged input, and their positions, from the splits alone."""
    assert sparse_ids.splits is not None
    splits = sparse_ids.splits.numpy()
    lengths = np.minimum(np.diff(splits), length)
    starts = np.cumsum(lengths) - lengths
    number = np.arange(lengths.sum())
    target = number + np.repeat(np.arange(0, len(lengths) * length, length) - starts, lengths)
    ids = sparse_ids.ids
    if len(number) < len(ids):
        ids = ids[torch.from_numpy(number + np.repeat(splits[:-1] - starts, lengths))]
    return ids, torch.from_numpy(target)


def _check_batch(where: str, got: int, wanted: int | None) -> None:
    if wanted is not None and got != wanted:
        raise ValueError(
            f"{where}: got {got} samples, but TPUEmbedding was built for batch_size={wanted}; pad "
            "or drop the last batch of an epoch"
        )


def _check_shape(where: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if got != wanted:
        raise ValueError(
            f"{where}: an input of shape [{', '.join(map(str, got))}, …] does not fill the output "
            f"shape {[*wanted]}"
        )

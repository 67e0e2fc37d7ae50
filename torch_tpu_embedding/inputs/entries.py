"""The kinds of input a feature takes, each brought into one form: ids, their bags, their positions.

Dense inputs need no such form and are read in `bags.py`. Everything here runs on the host.
Letters: B batch, N ids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..runtime import host
from .ragged import Ragged, take_spans

_REMEDIES: dict[type, str] = {
    list: "; make lists a Ragged with Ragged.from_lists, or a tensor with torch.tensor",
    np.ndarray: "; make it a tensor with torch.from_numpy, or its rows a Ragged with Ragged.from_lists",
}
_ID_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class SparseIds:
    """A sparse or ragged input: N ids in bags, in rising order of the bag."""

    ids: Tensor
    """`[N]` int64."""
    outer: tuple[int, ...]
    """The shape in which the bags stand: `(B,)`, or more for a sparse tensor of higher rank."""
    splits: Tensor | None
    """The row splits of a ragged input."""
    given: tuple[Tensor, Tensor] | None = None
    """`bag` and `position`, where the splits do not tell them."""
    order: Tensor | None = None
    """The permutation that sorts the entries of a sparse tensor by bag and position; None if they were
    sorted."""

    @cached_property
    def bag(self) -> Tensor:
        """`[N]` int64: the bag of each id, counted through `outer`."""
        if self.given is not None:
            return self.given[0]
        assert self.splits is not None
        splits = self.splits.numpy()
        return torch.from_numpy(np.repeat(np.arange(self.outer[0]), splits[1:] - splits[:-1]))

    @cached_property
    def position(self) -> Tensor:
        """`[N]` int64: the position of each id in its bag."""
        if self.given is not None:
            return self.given[1]
        assert self.splits is not None
        return host.arange(len(self.bag)) - self.splits[self.bag]

    def select(self, mask: Tensor) -> SparseIds:
        """Only the ids that `mask` `[N]` keeps."""
        given = self.bag[mask], self.position[mask]
        return SparseIds(self.ids[mask], self.outer, self.splits, given)

    def numbered(self) -> SparseIds:
        """The same entries with 0, 1, 2, … for ids."""
        return replace(self, ids=host.arange(len(self.ids)))

    def name(self, number: int) -> str:
        """The sample and the position of an id, for messages."""
        return (
            f"{bag_name(int(self.bag[number]), self.outer)}, position {int(self.position[number])}"
        )


def bag_name(bag: int, outer: tuple[int, ...]) -> str:
    """'sample 3', or 'sample 3, output position 0/1' where a sample has several bags."""
    if len(outer) == 1:
        return f"sample {bag}"
    indices = []
    for size in outer[::-1]:
        indices.append(bag % size)
        bag //= size
    return f"sample {indices[-1]}, output position {'/'.join(map(str, indices[-2::-1]))}"


def is_dense(value: object) -> bool:
    """True if the input is an ordinary tensor, with one id at each position."""
    return isinstance(value, Tensor) and not value.is_nested and value.layout == torch.strided


def read_sparse_ids(where: str, value: object) -> SparseIds:
    """The ids of a sparse or ragged input, sorted by bag.

    Raises:
        ValueError: it is of no known kind, or its ids are not integers on the host.
    """
    ragged = as_ragged(where, value)
    if ragged is not None:
        check_ids(where, ragged.values)
        splits = ragged.row_splits.to(torch.int64)
        return SparseIds(ragged.values.to(torch.int64), (ragged.batch_size,), splits)
    if isinstance(value, Tensor) and value.layout == torch.sparse_coo:
        check_sparse(where, value)
        check_ids(where, value._values())
        _check_indices(where, value)
        bag, position, order = _bag_order(value)
        ids = _ordered(value._values(), order).to(torch.int64)
        return SparseIds(ids, tuple(value.shape[:-1]), None, (bag, position), order)
    got = type(value).__name__
    if isinstance(value, Tensor):
        got = f"a {'nested ' if value.is_nested else ''}tensor with layout {value.layout}"
    raise ValueError(
        f"{where}: expected a dense tensor, a sparse COO tensor, a Ragged or a jagged nested tensor "
        f"(layout=torch.jagged) of ids, got {got}{_REMEDIES.get(type(value), '')}"
    )


def as_ragged(where: str, value: object) -> Ragged | None:
    """Ragged and jagged inputs as Ragged; None for any other kind."""
    if isinstance(value, Ragged):
        return value
    if not (isinstance(value, Tensor) and value.is_nested and value.layout == torch.jagged):
        return None
    if value.dim() != 2:
        raise ValueError(
            f"{where}: a jagged tensor must have two dimensions [B, ids], got {value.dim()}"
        )
    check_host(where, value)
    # torch's stubs do not know the accessors of jagged tensors
    values = value.values()
    offsets, lengths = value.offsets(), value.lengths()  # type: ignore[attr-defined]
    if lengths is None:
        _check_spans(where, offsets[:-1], offsets.diff(), len(values))
        return Ragged(values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])
    starts = offsets[: len(lengths)]  # a narrowed view: gaps lie between the samples
    _check_spans(where, starts, lengths, len(values))
    return Ragged.from_lengths(take_spans(values, starts, lengths), lengths)


def _check_spans(where: str, starts: Tensor, lengths: Tensor, size: int) -> None:
    """Raise ValueError if offsets point outside the values, which torch does not check."""
    wrong = ((starts < 0) | (lengths < 0) | (starts + lengths > size)).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"{where}: sample {at} of the jagged tensor has {int(lengths[at])} values from "
            f"{int(starts[at])} on, which are not within its {size} values; correct its offsets"
        )


def _bag_order(value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """(bag, position, permutation that sorted both) of the entries of a sparse tensor; None if they were
    sorted.

    Never coalesce here: that would add up the ids of two entries at one index. And never take the word of
    `is_coalesced` for their order: torch has it from whoever made the tensor.
    """
    *outer, position = value._indices().unbind()
    bag = outer[0]
    for index, size in zip(outer[1:], value.shape[1:-1], strict=True):
        bag = bag * size + index
    key = bag * value.shape[-1] + position
    if bool((key[1:] >= key[:-1]).all()):
        return bag, position, None
    order = torch.argsort(key, stable=True)
    return bag[order], position[order], order


def _ordered(values: Tensor, order: Tensor | None) -> Tensor:
    return values if order is None else values[order]


def read_weights(
    where: str, value: object, weights: object, sparse_ids: SparseIds, check_values: bool
) -> Tensor:
    """The weights `[N]` float64, in the order of the entries.

    Args:
        check_values: True if each weight must be finite.

    Raises:
        ValueError: they are of another kind than the ids, at other positions, or not finite numbers; or
            they require grad and two are at one position of a sparse tensor.
    """
    splits = sparse_ids.splits
    ragged = as_ragged(where, weights)
    if splits is not None and ragged is not None:
        if not torch.equal(ragged.row_splits.to(torch.int64), splits):
            other = ragged.row_splits.diff().tolist()
            pairs = zip(splits.diff().tolist(), other, strict=False)
            at = next((b for b, (n, m) in enumerate(pairs) if n != m), None)
            difference = (
                f"{len(other)} samples instead of {len(splits) - 1}"
                if at is None
                else f"sample {at} has {int(splits.diff()[at])} ids and {other[at]} weights"
            )
            raise ValueError(f"{where}: weights must have the row splits of the ids: {difference}")
        flat = ragged.values
    elif (
        splits is None
        and isinstance(weights, Tensor)
        and isinstance(value, Tensor)
        and weights.layout == torch.sparse_coo
    ):
        check_sparse(where, weights)
        if weights.shape != value.shape or not torch.equal(weights._indices(), value._indices()):
            raise ValueError(
                f"{where}: sparse weights must have the shape and the indices of the ids, in the "
                f"same order; got shape {[*weights.shape]} with {weights._nnz()} entries for ids of "
                f"shape {[*value.shape]} with {value._nnz()}"
            )
        flat = _sparse_values(where, weights, sparse_ids)
    else:
        wanted = "a Ragged or jagged tensor" if splits is not None else "a sparse COO tensor"
        raise ValueError(
            f"{where}: weights must be {wanted}, the kind of its ids, got {type(weights).__name__}"
            f"{_REMEDIES.get(type(weights), '')}"
        )
    if not flat.dtype.is_floating_point and flat.numel():  # torch.tensor([]) may be of any type
        raise ValueError(f"{where}: weights must be floating point, got {flat.dtype}")
    if check_values:
        finite = flat.to(torch.float32).isfinite()  # the gains are float32
        if not bool(finite.all()):
            at = int((~finite).nonzero()[0])
            raise ValueError(
                f"{where}: weight {float(flat.detach()[at])} at {sparse_ids.name(at)} is not finite in "
                "float32; clean the weights before enqueue"
            )
    return flat.to(torch.float64)


def _sparse_values(where: str, weights: Tensor, sparse_ids: SparseIds) -> Tensor:
    """The values of sparse weights in the order of the entries, differentiable if they require grad."""
    if not weights.requires_grad:
        return _ordered(weights._values(), sparse_ids.order)
    if weights.is_coalesced():
        return _ordered(weights.values(), sparse_ids.order)
    summed = weights.coalesce().values()  # torch differentiates no other access, and this one sorts
    if len(summed) < weights._nnz():
        raise ValueError(
            f"{where}: sparse weights that require grad have two entries at one position, whose gradients "
            "torch cannot tell apart; give each entry its own column, or ids and weights as Ragged"
        )
    return summed


def check_constant(where: str, weights: object) -> None:
    """Raise ValueError if weights require grad, in whatever mode autograd is."""
    values = weights.values if isinstance(weights, Ragged) else weights
    if isinstance(values, Tensor) and values.requires_grad:
        raise ValueError(
            f"{where}: its weights require grad, but an XLA device takes them as numbers of the host and "
            "gives no gradient back; detach their values, or, to learn them, look the ids up as a sequence "
            "(max_sequence_length) and combine its rows with weights [B, L] on the device"
        )


def check_ids(where: str, ids: Tensor) -> None:
    """Raise ValueError unless they are integers on the host; where there are none, floats are fine."""
    none_at_all = ids.numel() == 0 and ids.is_floating_point()  # as in torch.tensor([])
    if ids.dtype not in _ID_DTYPES and not none_at_all:
        raise ValueError(
            f"{where}: ids must be integers (int64 or int32), got {ids.dtype}; convert them with "
            ".to(torch.int64) if that is what they are"
        )
    check_host(where, ids)


def check_host(where: str, value: Tensor) -> None:
    if not value.is_cpu:
        raise ValueError(
            f"{where}: input must be a host (CPU) tensor, got one on {value.device}; leave ids on "
            "the CPU, enqueue moves what the device needs"
        )


def check_sparse(where: str, value: Tensor) -> None:
    check_host(where, value)
    if value.sparse_dim() < 2 or value.dense_dim() != 0:
        raise ValueError(
            f"{where}: a sparse tensor must have shape [B, width] or [B, …, width] with scalar "
            f"entries, got shape {[*value.shape]} with {value.sparse_dim()} sparse dimensions"
        )


def _check_indices(where: str, value: Tensor) -> None:
    """Raise ValueError if an index is outside the shape, which torch checks only on request."""
    indices = value._indices()
    if not indices.numel() or all(
        row.max() < size  # without a sign a negative index is larger than any other
        for row, size in zip(indices.numpy().view(np.uint64), value.shape, strict=True)
    ):
        return
    sizes = torch.tensor(value.shape, dtype=torch.int64, device="cpu")
    outside = ((indices < 0) | (indices >= sizes[:, None])).any(0)
    at = int(outside.nonzero()[0])
    raise ValueError(
        f"{where}: entry {at} of the sparse tensor, {value._values()[at].item()}, is at index "
        f"{indices[:, at].tolist()}, outside its shape {[*value.shape]}; correct the indices or give "
        "the shape that holds them"
    )

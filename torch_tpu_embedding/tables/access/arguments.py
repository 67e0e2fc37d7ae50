"""The arguments of calls that read, write and search rows, checked before anything happens."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from ...config.declared import TableConfig
from ...config.resolved import WEIGHT, Resolved, Table, field_shape
from ...config.vocabulary import HashedVocabulary
from ...runtime import host
from ...vocabularies.row_hash import hashed_rows
from ..low_precision.rounding import exact_or_reason, nearest

METRICS = ("dot", "cosine")


def table_number(call: str, resolved: Resolved, table: object) -> int:
    """The position in `resolved.tables` of a table that a user gives by its name or its TableConfig.

    Raises:
        TypeError: it is neither.
        ValueError: there is no such table.
    """
    names = [each.name for each in resolved.tables]
    if isinstance(table, TableConfig):
        for number, each in enumerate(resolved.tables):
            if each.config is table:
                return number
        raise ValueError(
            f"{call}: this TableConfig ({table.name!r}) is not one of feature_config's; the tables are "
            f"{names}, give one by its name"
        )
    if not isinstance(table, str):
        raise TypeError(
            f"{call}: table must be a name or a TableConfig, got {type(table).__name__}; the tables are "
            f"{names}"
        )
    if table not in names:
        raise ValueError(f"{call}: no table is named {table!r}; the tables are {names}")
    return names.index(table)


def field_name(call: str, table: Table, slot: object) -> str:
    """The field that `slot` names: the weights for None.

    Raises:
        ValueError: the table's optimizer has no such slot variable.
    """
    if slot is None:
        return WEIGHT
    if slot not in table.slot_names:
        has = f"has the slots {[*table.slot_names]}" if table.slot_names else "has no slots"
        raise ValueError(
            f"{call}: table {table.name!r} has no slot {slot!r}; it {has}, and slot=None is for its weights"
        )
    assert isinstance(slot, str)
    return slot


def checked_ids(call: str, table: Table, ids: Any) -> Tensor:
    """Ids of any kind as an int64 host tensor of their shape.

    Raises:
        TypeError: they are no integers, or on a device.
        ValueError: one is outside of the table; names the first such position.
    """
    found = _integers(call, table, ids)
    outside = ((found < 0) | (found >= table.vocabulary_size)).nonzero()
    if len(outside):
        position = outside[0].tolist()
        raise ValueError(
            f"{call}: table {table.name!r}: id {int(found[tuple(position)])} at position "
            f"{position[0] if len(position) == 1 else position} is outside [0, {table.vocabulary_size}); "
            f"{len(outside)} of {found.numel()} ids are; leave those out"
        )
    return found


def checked_rows(call: str, table: Table, field: str, ids: Any) -> Tensor:
    """The rows of ids of any kind, as an int64 host tensor `[…, K]`; K is the number of rows of an id.

    Of a table with a DynamicVocabulary the ids themselves, whose rows other processes may know.

    Raises:
        TypeError: they are no integers, or on a device.
        ValueError: one has no row, or a slot is asked for whose rows cannot be summed to one.
    """
    vocabulary = table.config.vocabulary
    if vocabulary is None:
        return checked_ids(call, table, ids)[..., None]
    several = isinstance(vocabulary, HashedVocabulary) and vocabulary.hash_functions
    if field != WEIGHT and several > 1:
        raise ValueError(
            f"{call}: table {table.name!r}: an id has {several} rows, whose "
            f"{field!r} have no sum that means anything; leave slot out, or take all rows by table_weight "
            "with slot=…"
        )
    found = _integers(call, table, ids)
    padding = table.config.padding_idx
    none = (found == padding).nonzero() if padding is not None else host.ints([])
    if len(none):
        place = none[0].tolist()
        raise ValueError(
            f"{call}: table {table.name!r}: id {padding} at position "
            f"{place[0] if len(place) == 1 else place} is padding_idx, which has no row; leave it out"
        )
    if not isinstance(vocabulary, HashedVocabulary):
        return found[..., None]
    return hashed_rows(found.reshape(-1), vocabulary, table.vocabulary_size).view(*found.shape, -1)


def refuse_vocabulary(call: str, table: Table, remedy: str) -> None:
    """Raise ValueError if the rows of a table belong to no single ids."""
    if table.config.vocabulary is not None:
        raise ValueError(
            f"{call}: table {table.name!r} has a vocabulary, so a row is no id's own; {remedy}"
        )


def _integers(call: str, table: Table, ids: Any) -> Tensor:
    where = f"{call}: table {table.name!r}: ids"
    if isinstance(ids, Tensor):
        if ids.device.type != "cpu" or ids.layout != torch.strided:
            raise TypeError(
                f"{where} must be a dense host tensor, got {ids.layout} on {ids.device}; "
                "take ids.cpu()"
            )
        kinds = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
        if ids.dtype not in kinds:
            raise TypeError(f"{where} must be integers, got {ids.dtype}; take ids.long()")
        return ids.detach().to(torch.int64)
    if isinstance(ids, range):
        return host.arange(ids.start, ids.stop, ids.step)
    try:
        array = np.asarray(ids)
    except ValueError as error:
        raise TypeError(
            f"{where} must be a tensor, an array or lists of one length, got {ids!r}"
        ) from error
    if array.size == 0 and not isinstance(ids, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no type of its own
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{where} must be integers, got {array.dtype}; convert them with astype('int64')"
        )
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"{where}: {array.max()} is outside [0, {table.vocabulary_size}); leave it out"
        )
    return torch.from_numpy(np.array(array, np.int64))


def checked_values(call: str, table: Table, field: str, ids: Tensor, values: Any) -> Tensor:
    """New values of rows as a float32 host tensor `[*ids.shape, width]`; those of a table in bfloat16 may
    come as such, or as float32 numbers that bfloat16 has.

    Raises:
        TypeError: they are no float32 host tensor or array.
        ValueError: the shape is another one, an id occurs twice, or a value is not finite.
    """
    found = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    where = f"{call}: table {table.name!r}: values"
    if not isinstance(found, Tensor) or found.layout != torch.strided:
        raise TypeError(
            f"{where} must be a dense float32 tensor or array, got {type(values).__name__}; make it one "
            "with torch.tensor"
        )
    dtypes = {torch.float32, table.dtype_of(field)}
    if found.device.type != "cpu" or found.dtype not in dtypes:
        raise TypeError(
            f"{where} must be float32 on the host, got {found.dtype} on {found.device}; take "
            "values.cpu().float()"
        )
    wanted = [*ids.shape, field_shape(table, field)[1]]
    if [*found.shape] != wanted:
        raise ValueError(
            f"{where} must have shape {wanted}, a row for each id, got {[*found.shape]}"
        )
    _refuse_twice(call, table, ids)
    wrong = (~found.isfinite()).nonzero()
    if len(wrong):
        position = wrong[0].tolist()
        raise ValueError(
            f"{where} must be finite, got {float(found[tuple(position)])} at position {position}, for id "
            f"{int(ids[tuple(position[:-1])])}; leave that row out"
        )
    if table.dtype_of(field) == torch.bfloat16:
        found = found.detach().float()
        if reason := exact_or_reason(found, where):
            raise ValueError(reason)
    return found.detach()


def _refuse_twice(call: str, table: Table, ids: Tensor) -> None:
    flat = ids.reshape(-1)
    rising, order = flat.sort(stable=True)
    twice = (rising[1:] == rising[:-1]).nonzero()[:, 0]
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        raise ValueError(
            f"{call}: table {table.name!r}: id {int(flat[first])} occurs more than once (positions "
            f"{int(first)} and {int(second)} of the flat ids); give each id one row of values"
        )


def slot_starts(call: str, table: Table, field: str, count: int) -> dict[str, Tensor]:
    """The start values of the slots of `count` rows: slot → `[count, width]`.

    Raises:
        ValueError: a slot is written itself, or the start values are not the same for all rows.
    """
    if field != WEIGHT:
        raise ValueError(
            f"{call}: table {table.name!r}: reset_slots=True goes with weights, got slot={field!r}; leave "
            "one of them out"
        )
    if getattr(table.optimizer, "slot_variable_creation_fn", None) is not None:
        raise ValueError(
            f"{call}: table {table.name!r}: its slots start as slot_variable_creation_fn says, which knows "
            f"whole tables only; leave reset_slots out, and write each slot with slot=…"
        )
    starts = table.optimizer.slot_initial_values() if table.optimizer is not None else {}
    found = {}
    for name, value in starts.items():
        rows = host.empty(count, field_shape(table, name)[1]).fill_(value)
        found[name] = nearest(rows) if table.dtype_of(name) == torch.bfloat16 else rows
    return found


def checked_range(call: str, table: Table, start: Any, stop: Any) -> tuple[int, int]:
    """The ids start … stop-1 of a table; a stop of None is the end of it.

    Raises:
        TypeError, ValueError: they are no ints, or not in order within the table.
    """
    begin = _integer(call, table, "start", start)
    end = table.vocabulary_size if stop is None else _integer(call, table, "stop", stop)
    if not 0 <= begin <= end <= table.vocabulary_size:
        raise ValueError(
            f"{call}: table {table.name!r}: start {begin} and stop {end} must be in order and within "
            f"[0, {table.vocabulary_size}]"
        )
    return begin, end


def _integer(call: str, table: Table, name: str, value: SupportsIndex) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(
        f"{call}: table {table.name!r}: {name} must be an int, got {type(value).__name__}"
    )


def checked_count(call: str, table: Table, k: Any, start: int, stop: int) -> int:
    """How many rows to find among the ids start … stop-1.

    Raises:
        TypeError, ValueError: it is no int, or there are not as many rows.
    """
    count = _integer(call, table, "k", k)
    padding = table.padding_row
    rows = stop - start - (padding is not None and start <= padding < stop)
    if not 1 <= count <= rows:
        but = ", without that of padding_idx" if rows < stop - start else ""
        raise ValueError(
            f"{call}: table {table.name!r}: k must be in [1, {rows}], for the ids {start} to {stop - 1} "
            f"have {rows} rows{but}, got {count}"
        )
    return count


def checked_metric(call: str, metric: object) -> str:
    """The name of a way to score rows.

    Raises:
        ValueError: there is no such way.
    """
    if metric not in METRICS:
        raise ValueError(f"{call}: metric must be one of {', '.join(METRICS)}, got {metric!r}")
    assert isinstance(metric, str)
    return metric


def checked_queries(call: str, table: Table, queries: object) -> Tensor:
    """Queries as a float32 host tensor `[…, D]`.

    Raises:
        TypeError: they are no float32 tensor or array.
        ValueError: the last size is not the table's dim, or a number is not finite.
    """
    found = torch.from_numpy(queries) if isinstance(queries, np.ndarray) else queries
    where = f"{call}: table {table.name!r}: queries"
    if not isinstance(found, Tensor) or found.layout != torch.strided:
        raise TypeError(
            f"{where} must be a dense float32 tensor or array [..., {table.dim}], got "
            f"{type(queries).__name__}; make it one with torch.tensor"
        )
    if found.dtype != torch.float32:
        raise TypeError(f"{where} must be float32, got {found.dtype}; take queries.float()")
    if found.dim() == 0 or found.shape[-1] != table.dim:
        raise ValueError(
            f"{where} must have shape [..., {table.dim}], the dim of the table, got {[*found.shape]}"
        )
    wrong = (~found.isfinite()).nonzero()
    if len(wrong):
        position = wrong[0].tolist()
        raise ValueError(
            f"{where} must be finite, got {float(found[tuple(position)])} at position {position}; "
            "leave that query out"
        )
    return found.detach()

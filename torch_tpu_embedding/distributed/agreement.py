"""The settings that all processes must have in common for one set of tables, and their comparison.

Everything that decides numbers, or the order of collective calls, is compared when a TPUEmbedding is made.
Values that may change with the steps (learning rates, the number of the batch) are compared in the messages
that each step sends anyway.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TypeVar

from ..config.resolved import Feature, Resolved, Table
from ..runtime import host
from .calls import calling, digest
from .fingerprint import fingerprint
from .group import HostGroup, OutOfStepError, report_failure

T = TypeVar("T")

_MOST_SHOWN = 5
_made = itertools.count(1)


def configuration(resolved: Resolved, options: Mapping[str, object]) -> dict[str, str]:
    """Setting → value as text of all settings that must be equal, in the order of a reader who compares.

    Args:
        options: of TPUEmbedding, by name.
    """
    found = {name: repr(value) for name, value in options.items()}
    found["tables"] = repr([table.name for table in resolved.tables])
    found["features"] = repr([feature.name for feature in resolved.features])
    for table in resolved.tables:
        found |= {f"table {table.name!r}: {k}": v for k, v in _of_table(table).items()}
    for feature in resolved.features:
        of_feature = _of_feature(feature, resolved)
        found |= {f"feature {feature.name!r}: {k}": v for k, v in of_feature.items()}
    return found


def agree(
    group: HostGroup, resolved: Resolved, options: Mapping[str, object], seed: int
) -> tuple[int, int]:
    """Make sure that all processes configure the same tables.

    Returns:
        (the seed of process 0, a number that no other set of tables of this group has).

    Raises:
        ValueError: their configurations differ; says where, and what each process has there.
    """
    number = next(_made)
    if group.size == 1:
        return seed, number
    with calling("TPUEmbedding()"):
        told = group.gather_objects((configuration(resolved, options), seed, number))
    first, seed, number = told[0]
    for rank, (other, _, _) in enumerate(told):
        settings = dict.fromkeys([*first, *other])
        found = [setting for setting in settings if first.get(setting) != other.get(setting)]
        if found:
            shown = "; ".join(
                f"{setting} is {first.get(setting, 'missing')} on process 0 and "
                f"{other.get(setting, 'missing')} on process {rank}"
                for setting in found[:_MOST_SHOWN]
            )
            more = len(found) - _MOST_SHOWN
            raise ValueError(
                f"TPUEmbedding: the processes are configured differently: {shown}"
                f"{f'; and {more} more' if more > 0 else ''}; build the same configuration in every process"
            )
    return seed, number


def check_together(
    group: HostGroup,
    call: str,
    check: Callable[[], tuple[T, Mapping[str, object]]],
    batches: str = "",
) -> T:
    """Run a check that may raise, as `group.together` does, and compare what it finds, in one message.

    Args:
        call: the name of the call, for the messages.
        check: gives the result, and settings that must be the same on all processes, by the words that
            precede them in a message: "the rates are".
        batches: the names of the batches that the call works on.

    Returns:
        The result of this process's check.

    Raises:
        Exception: the check's own; on the other processes PeerError.
        OutOfStepError: the batches differ.
        ValueError: the settings differ.
    """
    try:
        found, settings = check()
    except Exception as error:
        agree_on_step(group, call, error, batches, {})
        raise
    agree_on_step(group, call, None, batches, settings)
    return found


def agree_on_step(
    group: HostGroup,
    call: str,
    error: Exception | None,
    batches: str,
    settings: Mapping[str, object],
) -> None:
    """Make sure that all processes are about to do the same with the gradients of the same batches.

    Args:
        call: the name of the call, for the messages.
        error: the reason why this process cannot, or None.
        batches: the names of the batches.
        settings: what decides the numbers, by the words that precede it in a message: "the rates are".

    Raises:
        Exception: the one given, or PeerError if another process gave one.
        OutOfStepError: the batches differ.
        ValueError: the settings differ.
    """
    if group.size == 1:
        if error is not None:
            raise error
        return
    with calling(call):
        told = group.gather(host.ints([error is not None, digest(repr((batches, settings)))]))
        if bool(told[:, 0].any()):
            report_failure(group, call, error)
        if not bool((told[:, 1] != told[0, 1]).any()):
            return
        all_told = group.gather_objects((batches, dict(settings)))
    first, of_first = all_told[0]
    for rank, (its_batches, its_settings) in enumerate(all_told):
        if its_batches != first:
            raise OutOfStepError(
                f"{call}: the processes are out of step: process 0 works on the gradients of {first}, "
                f"process {rank} on those of {its_batches}; all must enqueue, dequeue, accumulate and "
                "discard the same batches in the same order"
            )
        for words, value in of_first.items():
            if its_settings[words] != value:
                raise ValueError(
                    f"{call}: {words} {value} on process 0 and {its_settings[words]} on process {rank}; "
                    "choose them by what all processes have in common, such as the number of the step"
                )


def check_starts(told: Sequence[Mapping[str, str]]) -> None:
    """Raise ValueError if start values of a table, as `start_values` saw them, differ between processes."""
    for rank, starts in enumerate(told):
        for table, found in starts.items():
            if found != told[0].get(table, found):
                raise ValueError(
                    f"table {table!r}: its initializer gives other start values on process {rank} than on "
                    "process 0; draw random numbers with torch, which is seeded alike on all, and read the "
                    "same files"
                )


def _of_table(table: Table) -> dict[str, str]:
    config, optimizer = table.config, table.optimizer
    found = {
        name: fingerprint(getattr(config, name))
        for name in (
            "vocabulary_size", "dim", "combiner", "initializer", "quantization_config", "dtype",
            "padding_idx", "vocabulary", "rounding",
            "slot_dtype",
        )
    }  # fmt: skip
    found["optimizer"] = type(optimizer).__name__
    if optimizer is not None:
        for each in fields(optimizer):
            value = getattr(optimizer, each.name)
            if each.name == "learning_rate" and callable(value):
                value = "a callable"  # what it returns is compared at each step
            found[f"optimizer.{each.name}"] = fingerprint(value)
    return found


def _of_feature(feature: Feature, resolved: Resolved) -> dict[str, str]:
    config = feature.config
    found = {
        name: fingerprint(getattr(config, name))
        for name in (
            "max_sequence_length", "validate_weights_and_indices", "output_shape", "is_weighted",
            "output_dtype",
        )
    }  # fmt: skip
    found["table"] = repr(resolved.table_of(feature).name)
    return found

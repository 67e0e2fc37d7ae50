"""An HLO module of one custom call, written byte by byte: the form in which torch_xla takes a custom call
whose result takes over the memory of an operand.

Field numbers are those of `xla/service/hlo.proto` and `xla/xla_data.proto` (openxla.org).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

_TYPES = {torch.float32: 11, torch.int32: 4}
"""PrimitiveType F32 and S32."""
_COMPUTATION_ID = 1000
"""Any number that no instruction has."""


@dataclass(frozen=True)
class Array:
    """The type of an operand or result."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


def custom_call_module(
    name: str, operands: Sequence[Array], result: Array, config: str, alias: int | None
) -> bytes:
    """The serialized HloModuleProto of a program that is one call of a TPU kernel.

    Args:
        name: of the module.
        config: the backend configuration, JSON; it holds the kernel.
        alias: the operand whose memory the result takes over; None if it has memory of its own.
    """
    count = len(operands)
    # XLA aborts the process if the name of an instruction does not end in a number.
    instructions = [
        _fields({1: f"operand.{n + 1}", 2: "parameter", 3: _shape(each), 9: n, 35: n + 1})
        for n, each in enumerate(operands)
    ]
    call = _fields({1: f"{name}.{count + 1}", 2: "custom-call", 3: _shape(result)})
    call += _fields({28: "tpu_custom_call", 35: count + 1, 36: _packed(range(1, count + 1))})
    call += _fields({43: config, 56: 1})  # 56: the layouts that follow are required
    call += b"".join(_field(57, _shape(each)) for each in operands)
    if alias is not None:
        call += _field(74, _field(2, alias))
    call += _field(77, 1)  # the first version of the custom call interface
    instructions.append(call)
    signature = b"".join(_field(1, _shape(each)) for each in operands) + _field(2, _shape(result))
    signature += b"".join(_field(3, f"operand.{n + 1}") for n in range(count))
    entry = f"{name}.{_COMPUTATION_ID}"
    computation = _field(1, entry) + b"".join(_field(2, each) for each in instructions)
    computation += _fields({4: signature, 5: _COMPUTATION_ID, 6: count + 1})
    return _fields({1: name, 2: entry, 3: computation, 4: signature, 6: _COMPUTATION_ID})


def _shape(array: Array) -> bytes:
    """A ShapeProto, rows after each other in memory."""
    rank = len(array.shape)
    layout = _field(1, _packed(reversed(range(rank))))
    return _fields(
        {2: _TYPES[array.dtype], 3: _packed(array.shape), 5: layout, 6: bytes(rank)}
    )  # 6: no dimension is dynamic


def _fields(values: Mapping[int, int | str | bytes]) -> bytes:
    return b"".join(_field(number, value) for number, value in values.items())


def _field(number: int, value: int | str | bytes) -> bytes:
    """One field: an int as a varint, all else with its length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _packed(numbers: Iterable[int]) -> bytes:
    return b"".join(map(_varint, numbers))


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

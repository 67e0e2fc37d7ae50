"""The encodings of TensorFlow checkpoints beside rows: checksums, protocol buffers, entries, slice keys.

Needs numpy alone. The files themselves are in `tensorflow_bundle.py`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

FLOAT32, STRING, INT64 = 1, 7, 9
_TYPES = {FLOAT32: "float32", 2: "float64", 3: "int32", STRING: "string", INT64: "int64",
          14: "bfloat16", 19: "float16"}  # fmt: skip
_PIECE, _LANES = 1 << 23, 1 << 13
"""Bytes hashed at a time, and in how many lanes side by side."""
_COLUMNS = 64
"""Words of every lane that are brought together at a time, so that they stay in the cache."""


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """The states that 32 zero bits make of each low half, and of each high half, of a state."""
    values = np.arange(1 << 16, dtype=np.uint32)
    made = []
    for state in (values, values << np.uint32(16)):
        for _ in range(32):
            state = (state >> np.uint32(1)) ^ ((state & np.uint32(1)) * np.uint32(0x82F63B78))
        made.append(state)
    return made[0], made[1]


@functools.cache
def _zeros(power: int) -> np.ndarray:
    """The states that 2^power zero bytes make of each of the 32 bits of a state."""
    if power == 0:
        state = np.uint32(1) << np.arange(32, dtype=np.uint32)
        for _ in range(8):
            state = (state >> np.uint32(1)) ^ ((state & np.uint32(1)) * np.uint32(0x82F63B78))
        return state
    return _apply(_zeros(power - 1), _zeros(power - 1))


def _apply(matrix: np.ndarray, states: np.ndarray) -> np.ndarray:
    out = np.zeros_like(states)
    for bit in range(32):
        out ^= ((states >> np.uint32(bit)) & np.uint32(1)) * matrix[bit]
    return out


def crc32c(data: np.ndarray | bytes, before: int = 0) -> int:
    """CRC-32C of `data` after bytes of CRC `before`."""
    low, high = _tables()
    octets = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    state = np.array([before ^ 0xFFFFFFFF], np.uint32)
    for start in range(0, len(octets), _PIECE):
        piece = octets[start : start + _PIECE]
        for power in range(_PIECE.bit_length()):
            if len(piece) >> power & 1:
                state = _apply(_zeros(power), state)
        power = max(6, (-(-len(piece) // _LANES) - 1).bit_length())  # of the bytes in a lane
        count = 1 << (-(-len(piece) >> power) - 1).bit_length()
        padded = np.zeros(count << power, np.uint8)  # zeros in front leave a state of 0 as it is
        padded[len(padded) - len(piece) :] = piece
        words = padded.view("<u4").reshape(count, -1)
        lanes = np.zeros(count, np.uint32)
        for column in range(0, words.shape[1], _COLUMNS):
            for word in np.ascontiguousarray(words[:, column : column + _COLUMNS].T):
                lanes ^= word
                lanes = low[lanes & np.uint32(0xFFFF)] ^ high[lanes >> np.uint32(16)]
        while len(lanes) > 1:
            lanes = _apply(_zeros(power), lanes[0::2]) ^ lanes[1::2]
            power += 1
        state = state ^ lanes
    return int(state[0]) ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """A checksum in the form in which TensorFlow stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at data[at:], and where it ends."""
    value = shift = 0
    while True:
        octet = data[at]
        value |= (octet & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if octet < 0x80:
            return value, at


def to_varint(value: int) -> bytes:
    """A number in groups of 7 bits, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a message: numbers as int, everything else as bytes."""
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = read_varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = read_varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a protocol buffer with a field of kind {kind}")
        part = message[at : at + size]
        at += size
        yield key >> 3, part if kind == 2 else int.from_bytes(part, "little")


class Message:
    """The fields of a protocol buffer by their numbers.

    Raises:
        ValueError: a field that is asked for as a number holds bytes, or the other way round.
    """

    def __init__(self, data: bytes) -> None:
        self._found: dict[int, list[int | bytes]] = {}
        for number, value in fields(data):
            self._found.setdefault(number, []).append(value)

    def number(self, field: int, default: int = 0) -> int:
        """A number; the last one if there are several, as protocol buffers have it."""
        value = self._found.get(field, [default])[-1]
        if not isinstance(value, int):
            raise ValueError(
                f"a protocol buffer with bytes in field {field}, where a number belongs"
            )
        return value

    def octets(self, field: int, default: bytes = b"") -> bytes:
        """Bytes; the last ones if there are several."""
        return ([default, *self.all_octets(field)])[-1]

    def all_octets(self, field: int) -> list[bytes]:
        """The bytes of a repeated field, in order."""
        found = self._found.get(field, [])
        octets = [value for value in found if isinstance(value, bytes)]
        if len(octets) < len(found):
            raise ValueError(
                f"a protocol buffer with a number in field {field}, where bytes belong"
            )
        return octets


def message(*pairs: tuple[int, int | str | bytes]) -> bytes:
    """A message of numbers, texts and messages."""
    out = b""
    for number, value in pairs:
        if isinstance(value, int):
            out += to_varint(number << 3) + to_varint(value)
        else:
            part = value.encode() if isinstance(value, str) else value
            out += to_varint(number << 3 | 2) + to_varint(len(part)) + part
    return out


@dataclass(frozen=True)
class Entry:
    """One tensor of the index, or one slice of one."""

    dtype: int
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Where the tensor is stored in slices: (start, length) for each dimension, length -1 for all of it."""

    @property
    def type_name(self) -> str:
        return _TYPES.get(self.dtype, f"type number {self.dtype}")

    @staticmethod
    def parse(data: bytes) -> Entry:
        found = Message(data)
        shape = Message(found.octets(2)).all_octets(2)
        slices = [Message(each).all_octets(1) for each in found.all_octets(7)]
        return Entry(
            dtype=found.number(1),
            shape=tuple(Message(size).number(1) for size in shape),
            shard=found.number(3),
            offset=found.number(4),
            size=found.number(5),
            crc=found.number(6),
            slices=tuple(
                tuple((Message(each).number(1), Message(each).number(2, -1)) for each in extents)
                for extents in slices
            ),
        )

    def serialize(self) -> bytes:
        shape = message(*[(2, message((1, size))) for size in self.shape])
        head = message((1, self.dtype), (2, shape), (4, self.offset), (5, self.size))
        return head + to_varint(6 << 3 | 5) + struct.pack("<I", self.crc)


def slice_key(name: str, extents: Iterable[tuple[int, int]]) -> bytes:
    """The key of a slice, in TensorFlow's order-preserving code."""
    flat = [number for extent in extents for number in extent]
    text = name.encode().replace(b"\0", b"\0\xff")
    return b"\0" + text + b"\0\x01" + bytes([1, len(flat) // 2]) + b"".join(map(_ordered, flat))


def _ordered(number: int) -> bytes:
    length = (number if number >= 0 else ~number).bit_length() // 7 + 1
    prefix = ((1 << length) - 1) << (8 * max(length, 2) - length)
    octets = (number % (1 << 8 * max(length, 2))) ^ (prefix >> (8 if length == 1 else 0))
    return octets.to_bytes(max(length, 2), "big")[-length:]

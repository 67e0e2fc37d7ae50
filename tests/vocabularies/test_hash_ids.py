"""`hash_ids`: the numbers of XXH64, for strings of every length, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torch_tpu_embedding as tte

MASK = 2**64 - 1
P1, P2, P3, P4, P5 = (
    11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579,
    2870177450012600261,
)  # fmt: skip


def rotated(x: int, bits: int) -> int:
    return ((x << bits) | (x >> (64 - bits))) & MASK


def mixed(lane: int, word: int) -> int:
    return rotated((lane + word * P2) & MASK, 31) * P1 & MASK


def reference(data: bytes, seed: int) -> int:
    """XXH64 as its specification tells it, a word at a time."""
    at, n = 0, len(data)
    if n >= 32:
        lanes = [(seed + P1 + P2) & MASK, (seed + P2) & MASK, seed, (seed - P1) & MASK]
        while at + 32 <= n:
            for i in range(4):
                word = int.from_bytes(data[at + 8 * i : at + 8 * i + 8], "little")
                lanes[i] = mixed(lanes[i], word)
            at += 32
        h = sum(rotated(x, bits) for x, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for x in lanes:
            h = ((h ^ mixed(0, x)) * P1 + P4) & MASK
    else:
        h = (seed + P5) & MASK
    h = (h + n) & MASK
    while at + 8 <= n:
        h ^= mixed(0, int.from_bytes(data[at : at + 8], "little"))
        h, at = (rotated(h, 27) * P1 + P4) & MASK, at + 8
    if at + 4 <= n:
        h ^= int.from_bytes(data[at : at + 4], "little") * P1 & MASK
        h, at = (rotated(h, 23) * P2 + P3) & MASK, at + 4
    for byte in data[at:]:
        h = rotated(h ^ byte * P5 & MASK, 11) * P1 & MASK
    h = (h ^ (h >> 33)) * P2 & MASK
    h = (h ^ (h >> 29)) * P3 & MASK
    return h ^ (h >> 32)


@given(st.lists(st.binary(max_size=100), max_size=20), st.integers(0, MASK))
def test_ids_are_the_xxh64_of_each_string(strings: list[bytes], seed: int) -> None:
    found = tte.hash_ids(strings, seed)
    assert (found.dtype, found.shape) == (torch.int64, (len(strings),))
    assert [each & MASK for each in found.tolist()] == [reference(each, seed) for each in strings]


@given(st.lists(st.text(max_size=30), max_size=20))
def test_a_str_has_the_id_of_its_utf8_bytes(strings: list[str]) -> None:
    assert torch.equal(tte.hash_ids(strings), tte.hash_ids([each.encode() for each in strings]))


def test_known_numbers_of_other_implementations_are_met() -> None:
    known = {b"": 0xEF46DB3751D8E999, b"a": 0xD24EC4F1A98C6E5B, b"abc": 0x44BC2CF5AD770999}
    found = tte.hash_ids(list(known)).tolist()
    assert [each & MASK for each in found] == list(known.values())


def test_arrays_keep_their_shape_and_bytes_and_str_may_be_mixed() -> None:
    array = np.array([["a", "bc"], ["dé", ""]])
    assert torch.equal(tte.hash_ids(array).flatten(), tte.hash_ids(["a", "bc", "dé", ""]))
    assert torch.equal(tte.hash_ids([b"a", "a"]), tte.hash_ids(("a", "a")))


def test_strings_longer_than_what_is_hashed_at_once_are_whole() -> None:
    long = bytes(range(256)) * 5000
    assert tte.hash_ids([long, b"x", long]).tolist()[0] & MASK == reference(long, 0)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "0"], ids=repr)
def test_a_seed_out_of_range_is_an_error(seed: object) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"seed must be an int in [0, 2**64), got {seed!r}")
    ):
        tte.hash_ids(["a"], seed)  # type: ignore[arg-type]


def test_what_is_no_list_of_strings_is_an_error_with_its_place_and_a_remedy() -> None:
    with pytest.raises(
        TypeError, match=re.escape("got one string, 'sku'; give a list of them: ['sku']")
    ):
        tte.hash_ids("sku")
    with pytest.raises(TypeError, match=r"position 1 holds 7 .int., expected str or bytes"):
        tte.hash_ids(["a", 7])  # type: ignore[list-item]
    with pytest.raises(
        TypeError, match=r"expected a list, tuple or numpy array of strings, got set"
    ):
        tte.hash_ids({"a"})  # type: ignore[arg-type]
    lone = ["a", "\ud800"]
    with pytest.raises(ValueError, match=r"at position 1 has no UTF-8 form .*; give its bytes"):
        tte.hash_ids(lone)
    tte.hash_ids([each.encode("utf-8", "surrogatepass") for each in lone])

"""`hash_ids`: strings made into int64 ids that are the same everywhere and always."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.modes import outside_graph
from .xxh64 import xxh64


@outside_graph
def hash_ids(strings: Sequence[str] | Sequence[bytes] | NDArray[Any], seed: int = 0) -> Tensor:
    """The id of each string: its XXH64, as a signed 64-bit number.

        embedding({"item": tte.hash_ids(["sku-8", "sku-9"])})

    The hash is that of xxHash's specification, of the UTF-8 bytes of a str: it does not depend on process,
    machine or version. Of n different strings two share an id with a probability of about n² · 2⁻⁶⁵: 3 %
    for a billion. The ids are any int64, negative too: look them up in a table with a `vocabulary`.

    Args:
        strings: `[…]` strings or bytes: a list, a tuple, or a numpy array of any shape (whose 'S' and 'U'
            kinds keep no zero bytes at the end of a string).
        seed: in [0, 2^64); another seed gives ids of their own.

    Returns:
        int64 `[…]` on the host.

    Raises:
        TypeError: it is one string and not a sequence, or holds something that is none.
        ValueError: the seed is out of range, or a str has no UTF-8 form (a lone surrogate).

    Examples:
        >>> hash_ids(["", "a", b"abc"]).tolist()
        [-1205034819632174695, -3292477735350538661, 4952883123889572249]
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"hash_ids: seed must be an int in [0, 2**64), got {seed!r}")
    if isinstance(strings, (str, bytes)):
        raise TypeError(
            f"hash_ids: got one string, {strings!r}; give a list of them: [{strings!r}]"
        )
    shape: tuple[int, ...] | None = None
    if isinstance(strings, np.ndarray):
        shape, strings = strings.shape, strings.reshape(-1).tolist()
    elif not isinstance(strings, (list, tuple)):
        raise TypeError(
            f"hash_ids: expected a list, tuple or numpy array of strings, got {type(strings).__name__}; "
            "make it a list"
        )
    data, lengths = _joined(strings)
    found = torch.from_numpy(xxh64(data, lengths, seed).view(np.int64))
    return found if shape is None else found.view(shape)


def _joined(strings: Sequence[Any]) -> tuple[bytes, NDArray[np.int64]]:
    """The bytes of all strings, one after another, and how many each has."""
    try:
        text = "".join(strings)
        if text.isascii():  # a byte for each letter, so that nothing need be encoded by itself
            return text.encode(), np.fromiter(map(len, strings), np.int64, len(strings))
    except TypeError:  # bytes, or something else
        pass
    parts = [_encoded(number, each) for number, each in enumerate(strings)]
    return b"".join(parts), np.fromiter(map(len, parts), np.int64, len(parts))


def _encoded(number: int, string: object) -> bytes:
    if isinstance(string, bytes):
        return string
    if not isinstance(string, str):
        raise TypeError(
            f"hash_ids: position {number} holds {string!r} ({type(string).__name__}), expected str or "
            "bytes; a number is an id as it is, and needs no hash"
        )
    try:
        return string.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"hash_ids: {string!r} at position {number} has no UTF-8 form ({error.reason}); give its bytes"
        ) from None

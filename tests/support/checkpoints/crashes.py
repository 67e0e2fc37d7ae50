"""A process that dies at a file operation of a save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torch_tpu_embedding.checkpoint.format import durable

OPERATIONS = (
    "create", "open_empty", "write_all", "sync_file", "rename", "link", "sync_directory",
    "make_directory", "remove", "remove_directory",
)  # fmt: skip


class Killed(BaseException):
    """The process is dead: from then on it does nothing to the file system."""


def deaths(patch: pytest.MonkeyPatch, last: int) -> list[int]:
    """Let the process die at its operation number `last`; gives the running count."""
    count = [0]
    for name in OPERATIONS:
        real = getattr(durable, name)

        def step(
            *args: int | Path | memoryview, name: str = name, real: Callable[..., Any] = real
        ) -> int | None:
            count[0] += 1
            if count[0] > last:
                if name == "write_all" and count[0] == last + 1:
                    real(args[0], args[1][: len(args[1]) // 2])  # torn
                raise Killed
            return real(*args)

        patch.setattr(durable, name, step)
    return count

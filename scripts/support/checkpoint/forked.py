"""Forked processes that may be killed at any moment, and talk through files."""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_tpu_embedding import checkpoint


class FileGroup:
    """Processes that talk through files; one that waits in vain gives up."""

    def __init__(self, directory: Path, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size = rank, size
        self._directory, self.timeout, self._round = directory, timeout, 0

    def say(self, what: str) -> None:
        """A message for whoever watches."""
        (self._directory / f"{what}-{self.rank}").touch()

    def gather_objects(self, value: Any) -> list[Any]:
        self._round += 1
        mine = self._directory / f"{self._round}-{self.rank}"
        mine.with_suffix(".tmp").write_bytes(pickle.dumps(value))
        mine.with_suffix(".tmp").rename(mine)
        paths = [self._directory / f"{self._round}-{rank}" for rank in range(self.size)]
        deadline = time.monotonic() + self.timeout
        while not all(path.exists() for path in paths):
            if time.monotonic() > deadline:
                raise TimeoutError("another process is gone")
            time.sleep(0.001)
        return [pickle.loads(path.read_bytes()) for path in paths]

    def gather(self, values: Tensor) -> Tensor:
        return torch.tensor(self.gather_objects(values.tolist()))

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        raise NotImplementedError

    def sum(self, values: Tensor) -> Tensor:
        raise NotImplementedError


def in_child(work: Callable[[], None]) -> int:
    """Fork; gives the child's number. It ends with status 0, or 1 after an exception."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(os.devnull, "w") as silence:
            sys.stderr = silence
            work()
            checkpoint.wait()
            status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)

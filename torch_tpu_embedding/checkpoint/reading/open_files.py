"""The data files of a checkpoint that are open for reading: all files, as far as a process may open them.

An open file stays readable when a later save removes its step.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from pathlib import Path

from ..format.safetensors_file import TensorFile

_FEWEST = 32


class OpenFiles:
    """Files by their paths; beyond half of what the process may open, the one used longest ago is closed,
    and opened again when it is used. Headers are read once.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit or max(_FEWEST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._files: dict[Path, TensorFile] = {}
        self._open: OrderedDict[Path, TensorFile] = OrderedDict()

    def get(self, path: Path, size: int) -> TensorFile:
        """The file, open. Raises as `TensorFile` does."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = TensorFile(path, size)
        else:
            file.open_again()
        self._open[path] = file
        if len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        return file

    def find_open(self, path: Path) -> TensorFile | None:
        """The file, if it is open now."""
        return self._open.get(path)

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()

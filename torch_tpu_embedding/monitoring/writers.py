"""Writers of metrics, to lines of JSON or to TensorBoard; both are callbacks for `enable_metrics`.

TensorBoardWriter needs the package tensorboard: `pip install 'torch_tpu_embedding[tensorboard]'`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..io.paths import local_path, naming, scheme_of


class JsonLinesWriter:
    """Appends each report to a file, as one line of JSON that is written out at once.

    Args:
        path: of the file. With several processes give each a file of its own.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = local_path(path)
        self._file = self._path.open("a")

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        with naming(self._path):
            self._file.write(json.dumps(metrics) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: what was left could not be written.
        """
        with naming(self._path):
            self._file.close()


class TensorBoardWriter:
    """Writes every number of each report as a scalar `embedding/…`, by the number of the step.

    Args:
        folder: of the run, or an address that TensorBoard writes to (`gs://…`, with the package for it).
            With several processes give each a folder of its own.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoardWriter: tensorboard is not installed; "
                "`pip install 'torch_tpu_embedding[tensorboard]'`, or write lines of JSON with "
                "JsonLinesWriter"
            ) from error
        if scheme_of(folder) in (None, "file"):  # TensorBoard itself writes to other addresses
            folder = local_path(folder, "folder")
        self._writer: Any = SummaryWriter(str(folder))  # type: ignore[no-untyped-call]

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        for name, value in _numbers("embedding", metrics):
            self._writer.add_scalar(name, value, metrics["step"])

    def close(self) -> None:
        """Write out what TensorBoard's writer holds, and close it."""
        self._writer.close()


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    """The numbers in nested dicts, by their path.

    >>> [*_numbers("a", {"b": {"c": 1, "d": None}, "e": 2.5, "f": [3]})]
    [('a/b/c', 1), ('a/e', 2.5)]
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _numbers(f"{name}/{key}", each)
    elif isinstance(value, (int, float)):
        yield name, value

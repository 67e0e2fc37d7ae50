"""Option types for paths: what cannot be written is refused with the command line, before any work."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def output_file(text: str) -> Path:
    """An option type: a file to write at the end. An old one keeps its content until then."""
    path = Path(text)
    with _refusing(path, "give the path of a file, in a folder that you may write to"):
        if os.path.lexists(path):
            path.open("ab").close()
        else:
            _write_something_in(path.parent)
    return path


def picture_file(text: str) -> Path:
    """An option type: a picture to draw at the end, in a format that matplotlib has."""
    path = output_file(text)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise argparse.ArgumentTypeError(
            "drawing needs matplotlib: pip install matplotlib, or leave the option out"
        ) from None
    if path.suffix[1:].lower() not in Figure().canvas.get_supported_filetypes():
        raise argparse.ArgumentTypeError(
            f"{path} does not name a picture; let it end with .png or .svg"
        )
    return path


def work_folder(text: str) -> Path:
    """An option type: a folder that is there, for temporary files."""
    path = Path(text)
    with _refusing(path, "give a folder that exists and that you may write to"):
        _write_something_in(path)
    return path


def output_folder(text: str) -> Path:
    """An option type: a folder to write, which is made, with those above it, if it is not there."""
    path = Path(text)
    there = path.absolute()
    while not os.path.lexists(there):
        there = there.parent
    with _refusing(path, "give a folder, in one that you may write to"):
        _write_something_in(there)
    return path


@contextlib.contextmanager
def _refusing(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{path} cannot be written: {error.strerror}; {remedy}"
        ) from None


def _write_something_in(folder: Path) -> None:
    """Write a file that leaves no trace: nothing else shows what a file system refuses."""
    with tempfile.TemporaryFile(dir=folder):
        pass

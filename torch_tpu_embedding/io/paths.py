"""Paths as users write them: `~` and `file://` are understood, addresses of other places are refused.

Python itself takes `gs://bucket/run` for a directory named `gs:`, and writes there without a word.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

# One slash is enough: `pathlib.Path("gs://bucket")` has lost the other. One letter is a drive of Windows.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_FILE_URL = re.compile(r"file:(?://(?:localhost)?)?(/(?!/).*)", re.IGNORECASE | re.DOTALL)


def local_path(path: str | os.PathLike[str], what: str = "path") -> Path:
    """The path in a local or mounted file system that a user means.

    Args:
        path: `~` and `~name` at its beginning become home directories, `file:///…` what it points to.
        what: the argument's name, for messages.

    Raises:
        TypeError: `path` is neither a str nor a path.
        ValueError: it is empty, has another scheme than file, or there is no such home directory.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise TypeError(f"{what}: expected a str or a path, got {type(path).__name__}")
    if not text:
        raise ValueError(f"{what}: the path is empty; give '.' for the current directory")
    scheme = scheme_of(text)
    if scheme == "file":
        match = _FILE_URL.fullmatch(text)
        if match is None:
            raise ValueError(f"{what}: {text!r} names a host; write file:///absolute/path")
        return Path(unquote(match[1]))
    if scheme is not None:
        raise ValueError(
            f"{what}: {text!r} is an address ({scheme}:), and only files of local or mounted file systems "
            "are read and written; mount the storage (as gcsfuse and mount-s3 do) and give the path "
            "there, or use a local directory and copy it. A local directory of this very name is "
            "taken by its absolute path"
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(
            f"{what}: there is no home directory for {text!r}; give its absolute path, also where the "
            "name itself begins with '~'"
        )
    return Path(expanded)


def scheme_of(path: str | os.PathLike[str]) -> str | None:
    """The scheme of an address, in small letters; None for a plain path.

    >>> scheme_of("gs://bucket/run"), scheme_of("run/step-1")
    ('gs', None)
    """
    match = _SCHEME.match(os.fspath(path))
    return match[1].lower() if match else None


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have an OSError of calls on an open file (no space left, a bad sector) name the file, as
    the errors of `open` do."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def path_option(text: str) -> Path:
    """`local_path` as an option type of argparse."""
    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from None

"""Compiled programs kept on the disk: not by this package under torch_tpu."""

from __future__ import annotations

import os

from ...io.paths import local_path
from ...io.warn import warn_caller


def cache_compiled_programs(path: str | os.PathLike[str], *, readonly: bool = False) -> None:
    """Have no effect but a RuntimeWarning: under torch_tpu programs are not kept in a directory of ours.

    Args:
        path: of the directory; it is checked, and not made.
        readonly: without effect.

    Raises:
        TypeError, ValueError: `path` is none, or an address such as `gs://…`.
    """
    local_path(path)
    warn_caller(
        "cache_compiled_programs: nothing is cached under torch_tpu, whose own cache is set up by its "
        "environment variables; leave the call out here"
    )

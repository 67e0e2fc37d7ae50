"""Compiled programs kept on the disk, so that the next start of a job need not compile them again."""

from __future__ import annotations

import os

from ...io.paths import local_path
from ...io.warn import warn_caller
from .device import bindings, device_kind


def cache_compiled_programs(path: str | os.PathLike[str], *, readonly: bool = False) -> None:
    """Keep compiled programs in a directory, and take them from there at the next start.

    Call it first of all, before `distributed.initialize` and the first TPUEmbedding: torch_xla opens its
    cache at the first program. It serves the programs of the dense model too. A program is found again as
    long as it is the same: a changed model, batch size or version compiles anew. Nothing is ever removed.

    torch_xla 2.9 cannot read the programs of XLA's CPU device back: there it would write files, fail to
    read them, and compile again. So on the CPU nothing is cached, and a RuntimeWarning says so.

    Args:
        path: of the directory, on a local or mounted file system; made if it is not there. With several
            processes a host they may share one.
        readonly: True takes programs from it and adds none.

    Raises:
        RuntimeError: this process has compiled a program already.
        TypeError, ValueError: `path` is none, or an address such as `gs://…`.
    """
    directory = local_path(path).absolute()
    if device_kind() == "CPU":
        warn_caller(
            "cache_compiled_programs: torch_xla 2.9 cannot read compiled programs of XLA's CPU device "
            "back, so nothing is cached; leave the call out here, or set PJRT_DEVICE=TPU"
        )
        return
    if bindings()._xla_computation_cache_is_initialized():
        raise RuntimeError(
            "cache_compiled_programs: this process has compiled a program already, and torch_xla opens "
            "its cache at the first one; make this call the first of the program, before "
            "distributed.initialize and TPUEmbedding"
        )
    import torch_xla.runtime as xr

    xr.initialize_cache(str(directory), readonly=readonly)

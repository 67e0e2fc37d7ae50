"""The backend that reaches the accelerator: torch_xla, or its successor torch_tpu.

They want different releases of torch, so an environment has one of them, or none: configuration, input
checking and serving on the CPU need none.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, get_args

import torch

Backend = Literal["torch_xla", "torch_tpu"]
"""The backends."""

VARIABLE = "TPU_EMBEDDING_BACKEND"
"""The environment variable that names the backend."""

_TORCH = {"torch_xla": ((2, 9), (2, 10)), "torch_tpu": ((2, 11), (2, 16))}
"""The first release of torch that each works with, and the first one after it that it does not."""
_REMEDY = (
    "install one of them, with the torch it needs: pip install 'torch_tpu_embedding[xla]', or "
    "'torch_tpu_embedding[torch-tpu]'; device='cpu' needs neither"
)


@cache
def backend() -> Backend:
    """The backend of this process, known without importing it.

    It is what the environment variable TPU_EMBEDDING_BACKEND names; without that the one that is installed;
    with both or neither of them installed, the one that works with the installed torch.

    Raises:
        ValueError: TPU_EMBEDDING_BACKEND names none.
    """
    for each in get_args(Backend):
        if os.environ.get(VARIABLE) == each:
            return each  # type: ignore[no-any-return]
    if os.environ.get(VARIABLE):
        raise ValueError(
            f"{VARIABLE} must be torch_xla or torch_tpu, got {os.environ[VARIABLE]!r}; unset it to have "
            "the installed one"
        )
    found = _installed()
    if len(found) == 1:
        return found[0]
    return "torch_tpu" if _fits("torch_tpu") else "torch_xla"


def device_type() -> str:
    """The type of the backend's devices: 'xla' or 'tpu'."""
    return "xla" if backend() == "torch_xla" else "tpu"


@cache
def require_backend() -> None:
    """Check that the backend can be used.

    Raises:
        ModuleNotFoundError: it is not installed, with the command that installs it.
        ImportError: another one is installed, or it is not with a torch that it works with.
        RuntimeError: both are installed, and nothing says which one is meant.
    """
    chosen, found = backend(), _installed()
    if not found:
        raise ModuleNotFoundError(
            f"{chosen} is not installed, by which tables are trained and kept on XLA devices; run: pip "
            f"install 'torch_tpu_embedding[{chosen.removeprefix('torch_').replace('tpu', 'torch-tpu')}]'. "
            'device="cpu", serving, export and checkpoints work without it',
            name=chosen,
        )
    if chosen not in found:
        raise ImportError(
            f"TPUEmbedding: {VARIABLE}={chosen}, which is not installed, but {found[0]} is; unset the "
            f"variable, or {_REMEDY}"
        )
    if len(found) > 1 and not os.environ.get(VARIABLE):
        raise RuntimeError(
            "TPUEmbedding: torch_xla and torch_tpu are both installed, which need different releases of "
            f"torch; uninstall one, or set {VARIABLE} to torch_xla or torch_tpu"
        )
    if not _fits(chosen):
        first, end = _TORCH[chosen]
        raise ImportError(
            f"TPUEmbedding: {chosen} {_version(chosen)} works with torch {first[0]}.{first[1]} up to "
            f"{end[0]}.{end[1] - 1}, and torch {torch.__version__} is installed; {_REMEDY}"
        )


def backend_name() -> str:
    """The backend and its release, for people; only its name if the release is not known."""
    return f"{backend()} {_version(backend())}".strip()


def _installed() -> list[Backend]:
    return [each for each in get_args(Backend) if _is_there(each)]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # None stands for it in sys.modules
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _fits(chosen: Backend) -> bool:
    first, end = _TORCH[chosen]
    return first <= tuple(int(part) for part in torch.__version__.split(".")[:2]) < end

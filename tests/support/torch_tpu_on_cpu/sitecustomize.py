"""torch_tpu without a TPU: its own kernels, compiled and run by a plugin for XLA's CPU device.

Python runs this file at its start where this folder is on PYTHONPATH (`scripts/run --backend torch-tpu`
puts it there). torch_tpu takes the plugin that TPU_LIBRARY_PATH names for libtpu; it hands it an option
that only libtpu knows, which another replaces here, and registers its device only where it finds the
hardware, so that is asked for here. Nothing else of torch_tpu is changed. For tests: the package knows
nothing of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_HEADER, _POINTER = 40, 8
_CLIENT_CREATE = 10
"""The place of PJRT_Client_Create among the functions of PJRT_Api, after its header of 40 bytes."""
_OPTIONS, _NUM_OPTIONS = 16, 24
"""Where PJRT_Client_Create_Args has the options, and their number."""
_INT64 = 1
_OF_TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_kept_alive: list[Any] = []


def _plugin() -> str:
    spec = importlib.util.find_spec("lammps_jax_pjrt_cpu")
    places = spec.submodule_search_locations if spec is not None else None
    assert places, "the plugin is not installed: pip install '.[torch-tpu-test]'"
    (found,) = (path for place in places for path in Path(place).rglob("*.so"))
    return str(found)


class _NamedValue(ctypes.Structure):
    """PJRT_NamedValue of a number."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("name_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("value", ctypes.c_int64),
        ("value_size", ctypes.c_size_t),
    )


def _replace_options(plugin: str) -> None:
    """Let the plugin's PJRT_Client_Create be told to have one device, and nothing else."""
    name = b"cpu_device_count"
    option = _NamedValue(ctypes.sizeof(_NamedValue), None, name, len(name), _INT64, 1, 1)
    library = ctypes.CDLL(plugin, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    library.GetPjrtApi.restype = ctypes.c_void_p
    address = library.GetPjrtApi() + _HEADER + _CLIENT_CREATE * _POINTER
    slot = ctypes.c_void_p.from_address(address)
    signature = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    create = signature(slot.value or 0)

    def with_one_device(arguments: int) -> Any:
        ctypes.c_void_p.from_address(arguments + _OPTIONS).value = ctypes.addressof(option)
        ctypes.c_size_t.from_address(arguments + _NUM_OPTIONS).value = 1
        return create(arguments)

    replaced = signature(with_one_device)
    slot.value = ctypes.cast(replaced, ctypes.c_void_p).value
    _kept_alive.append((library, replaced, option))


def _start_device(torch: ModuleType) -> None:
    """Register torch_tpu's device, and start it as that of a single process.

    Started by one of several, it would look for the devices of the others, which are not to be had here.
    """
    plugin = _plugin()
    os.environ["TPU_LIBRARY_PATH"] = plugin
    _replace_options(plugin)
    hidden = {name: os.environ.pop(name) for name in _OF_TORCHRUN if name in os.environ}
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            warnings.catch_warnings(action="ignore"),  # of XLA_FLAGS and DeprecationWarnings
        ):
            from torch_tpu import _loader

            _loader._init_device("tpu")
            torch.zeros(1, device="tpu").cpu()
    finally:
        os.environ.update(hidden)


class _AfterTorch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Starts the device as soon as torch is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        self._loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _start_device(module)


os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
sys.meta_path.insert(0, _AfterTorch())

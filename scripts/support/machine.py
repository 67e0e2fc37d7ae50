"""Where a measurement was made, for the JSON of the benchmarks."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torch_xla", "fbgemm-gpu-cpu", "numpy", "torch_tpu_embedding")
SETTINGS = ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "PJRT_DEVICE", "XLA_FLAGS")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, system and its load now, versions, and the environment that matters; starts no
    device."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line for line in lines if line.startswith("model name")]
    return {
        "processor": named[0].split(":")[1].strip() if named else platform.processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "environment": {name: os.environ.get(name, "") for name in SETTINGS},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    here = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(here, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""

"""The machine of a measurement, for the JSON of the benchmarks; and the memory of this process (Linux)."""

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
    """Processor, memory, system and its load now, versions, and the environment variables that matter.

    Starts no device.
    """
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


def resident(kind: str) -> int:
    """Bytes of this process in memory: 'VmRSS' now, 'VmHWM' at most since the start or `reset_peak`.

    Raises:
        RuntimeError: the system is not Linux.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(kind + ":"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/self/status has no {kind}: this needs Linux")


def reset_peak() -> None:
    """Let 'VmHWM' count from here on."""
    Path("/proc/self/clear_refs").write_text("5")


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

"""Compiled programs kept on the disk, as far as that can be tried without a TPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import SLOW

import torch_tpu_embedding as tte


def run(code: str, *arguments: str, device: str = "CPU") -> subprocess.CompletedProcess[str]:
    """A Python of its own: torch_xla opens its cache once a process."""
    start = f"import os; os.environ['PJRT_DEVICE'] = {device!r}; import sys\n"
    command = [sys.executable, "-c", start + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)


def test_on_the_cpu_nothing_is_cached_and_a_warning_says_so(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="cannot read compiled programs .* nothing is cached"):
        tte.runtime.cache_compiled_programs(tmp_path / "programs")
    assert not (tmp_path / "programs").exists()


def test_on_a_tpu_torch_xla_is_told_the_directory(tmp_path: Path) -> None:
    told = run(
        "import torch_tpu_embedding as tte\n"
        "tte.runtime.cache_compiled_programs(sys.argv[1], readonly=True)\n"
        "print(os.environ['XLA_PERSISTENT_CACHE_PATH'], os.environ['XLA_PERSISTENT_CACHE_READ_ONLY'])",
        str(tmp_path),
        device="TPU",
    )
    assert told.stdout.split() == [str(tmp_path), "1"], told.stderr


def test_a_call_after_the_first_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tte.runtime.device()
    monkeypatch.setattr(
        "torch_tpu_embedding.runtime.torch_xla.program_cache.device_kind", lambda: "TPU"
    )
    monkeypatch.setattr(
        tte.runtime.torch_xla.device.bindings(),
        "_xla_computation_cache_is_initialized",
        lambda: True,
    )
    with pytest.raises(RuntimeError, match="make this call the first of the program"):
        tte.runtime.cache_compiled_programs("programs")


def test_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="mount the storage"):
        tte.runtime.cache_compiled_programs("gs://bucket/programs")


PROGRAM = """
import torch, torch_xla, torch_xla.runtime as xr, torch_xla.debug.metrics as met
xr.initialize_cache(sys.argv[1])
value = torch.arange(3.0).to(torch_xla.device()) + 1
torch_xla.sync()
print(value.cpu().tolist(), torch_xla._XLAC._xla_computation_cache_is_initialized())
print(met.counter_value("PersistentCacheDeserializeFailure") or 0)
"""


def test_torch_xla_still_cannot_read_programs_of_the_cpu_back(tmp_path: Path) -> None:
    """Fails on the day it can: then the CPU may have the cache too."""
    first, second = run(PROGRAM, str(tmp_path)), run(PROGRAM, str(tmp_path))
    assert first.stdout.splitlines() == ["[1.0, 2.0, 3.0] True", "0"], first.stderr
    assert second.stdout.splitlines() == ["[1.0, 2.0, 3.0] True", "1"], second.stderr

"""Test settings: XLA's CPU device, quick compiles, and the Hypothesis profile.

Compiling takes most of the time of the tests. So LLVM does not optimize the machine code of XLA's kernels,
and XLA writes that code by its older emitters, which take half as long. Tests that look at a program have
the usual ones (`programs/traced.py`). `XLA_FLAGS= scripts/run pytest` compiles all as users do.

XLA's CPU device maps the machine code of a program in some 30 pieces, and Linux gives a process 65,530
(vm.max_map_count): one that keeps the 2,048 programs of torch_xla's default ends in a segmentation fault.
A process of the tests compiles more than that, so it keeps fewer.

Hypothesis draws new examples at every run, but in CI, where a change shall be judged by itself, always
the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("PJRT_DEVICE", "CPU")
# Under torch_tpu: to compile functions takes ten times as long as all that a test does with them. Tests
# of these functions set it to 1.
os.environ.setdefault("TPU_EMBEDDING_COMPILE", "0")
# torch keeps compiled functions on the disk: what is read from there is neither counted nor dumped.
os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "0")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # torch_tpu's XLA has no older emitters, and ends a process for a flag that it does not know.
    + (" --xla_cpu_use_fusion_emitters=false" if find_spec("torch_xla") else ""),
)
os.environ.setdefault("XLA_COMPILATION_CACHE_SIZE", "512")

import backends
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    max_examples=40,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("default")

# Some of it is run by tests as processes of their own: importing that would start their work.
collect_ignore = ["support"]
if backends.DEVICE == "tpu":
    collect_ignore += backends.FILES_OF_TORCH_XLA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of what this environment's backend does not have, each with the reason."""
    for item in items:
        reason = backends.reason_to_skip(
            item.nodeid, item.get_closest_marker("torch_tpu") is not None
        )
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def few_mappings() -> Iterator[None]:
    """A process that has run many tests is far from the number of memory mappings where it would crash."""
    yield
    mappings, most = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    if most.exists():
        with mappings.open() as lines:
            assert sum(1 for _ in lines) < int(most.read_text()) / 2

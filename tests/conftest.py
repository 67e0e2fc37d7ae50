"""Test settings: XLA's CPU device, quick compiles, and the Hypothesis profile.

Compiling takes most of the time of the tests. So LLVM does not optimize the machine code of XLA's kernels;
the programs that the tests look at are the same. `XLA_FLAGS= scripts/run pytest` has it optimize.

Hypothesis draws new examples at every run, but in CI, where a change shall be judged by itself, always
the same.
"""

from __future__ import annotations

import os

os.environ.setdefault("PJRT_DEVICE", "CPU")
# Under torch_tpu: to compile functions takes ten times as long as all that a test does with them. Tests
# of these functions set it to 1.
os.environ.setdefault("TPU_EMBEDDING_COMPILE", "0")
# torch keeps compiled functions on the disk: what is read from there is neither counted nor dumped.
os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "0")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)

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

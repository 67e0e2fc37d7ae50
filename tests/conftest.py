"""Test settings: XLA's CPU device, and the Hypothesis profile, which draws new examples at every run, but
in CI, where a change shall be judged by itself, always the same."""

from __future__ import annotations

import os

os.environ.setdefault("PJRT_DEVICE", "CPU")

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

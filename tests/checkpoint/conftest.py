"""Fixtures of the checkpoint tests."""

from __future__ import annotations

import pytest

from torch_tpu_embedding.checkpoint.format import durable


@pytest.fixture
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of many saves; nothing is as slow as a sync."""
    monkeypatch.setattr(durable, "sync_file", lambda descriptor: None)
    monkeypatch.setattr(durable, "sync_directory", lambda path: None)

"""An OSError of a call on an open file names the file, as those of `open` do."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import Any, Never

import pytest
from checkpoints.checkpoint_fakes import FakeEmbedding, assert_same, random_values, table, whole

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

TABLES = [table("user", 6, 2)]
FULL = "No space left on device"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoint.save(
        FakeEmbedding(TABLES, values=random_values(TABLES)), tmp_path / "run", 1, {"a": 1}
    )
    return tmp_path / "run"


def fail_at(patch: pytest.MonkeyPatch, call: str, turn: int) -> None:
    """Let a call of `os` that changes or reads a file fail at its turn, counted from 0."""
    real, turns = getattr(os, call), iter(range(1000))

    def failing(*args: list[Any] | int | memoryview) -> int | None:
        if next(turns) == turn:
            raise OSError(errno.ENOSPC, FULL)
        return real(*args)

    patch.setattr(os, call, failing)


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("turn", range(8))
def test_a_full_disk_during_a_save_names_the_file(run: Path, call: str, turn: int) -> None:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        fail_at(patch, call, turn)
        try:
            checkpoint.save(FakeEmbedding(TABLES), run, 2, {"a": 2})
        except OSError as error:
            texts = [str(error)]
        else:  # in tidying up; or the turn never came
            texts = [str(each.message) for each in caught]
    assert all(FULL in text and f"'{run.parent}" in text for text in texts)
    embedding = FakeEmbedding(TABLES)
    checkpoint.load(embedding, run, step=1)
    assert_same(whole([embedding.shard]), random_values(TABLES))


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("name", ["user.npy", "user.safetensors"])
def test_a_full_disk_during_an_export_names_the_file_and_leaves_the_old_one(
    run: Path, call: str, name: str
) -> None:
    path = run.parent / name
    path.write_text("old")
    with checkpoint.open(run) as reader, pytest.MonkeyPatch.context() as patch:
        fail_at(patch, call, 0)
        with pytest.raises(OSError, match=FULL) as caught:
            checkpoint.export_table(reader, "user", path)
        assert str(caught.value.filename).startswith(str(path))
    assert path.read_text() == "old"
    assert sorted(each.name for each in run.parent.iterdir()) == ["run", name]


def test_a_file_that_cannot_be_read_is_named(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, "preadv", 0)
        with pytest.raises(OSError, match=FULL) as caught:
            checkpoint.load(FakeEmbedding(TABLES), run)
    assert caught.value.filename.startswith(f"{run}/step-1/")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_during_writing_of_metrics_or_a_trace_names_the_file() -> Never:
    writer = tte.JsonLinesWriter("/dev/full")
    with pytest.raises(OSError, match=f"{FULL}: '/dev/full'"):
        writer({"step": 1})
    with pytest.raises(OSError, match=f"{FULL}: '/dev/full'"):
        writer.close()  # what the failed report left is tried again
    with pytest.raises(OSError, match=f"{FULL}: '/dev/full'"), tte.profile("/dev/full"):
        pass
    with pytest.raises(OSError) as caught, tte.profile("/dev/null"):
        raise OSError(errno.EIO, "of the caller")
    assert caught.value.filename is None

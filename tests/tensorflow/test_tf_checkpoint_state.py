"""The file `checkpoint` beside converted checkpoints: TensorFlow and our reader find the newest by it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.__main__ import main
from torch_tpu_embedding.checkpoint.convert.tensorflow_bundle import find_prefix
from torch_tpu_embedding.checkpoint.convert.tensorflow_state import newest, record


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoint.write_tables(tmp_path / "run", 1, {"t": {"weight": np.ones((3, 2), np.float32)}})
    return tmp_path / "run"


def to_tf(run: Path, target: Path) -> int:
    return main(["to-tensorflow", str(run), str(target)])


def test_the_newest_converted_checkpoint_is_found_by_its_directory(
    run: Path, tmp_path: Path
) -> None:
    for name in ("ckpt-1", "ckpt-2"):
        assert to_tf(run, tmp_path / "tf" / name) == 0
        assert find_prefix(tmp_path / "tf") == tmp_path / "tf" / name
    assert (tmp_path / "tf/checkpoint").read_text() == (
        'model_checkpoint_path: "ckpt-2"\n'
        'all_model_checkpoint_paths: "ckpt-1"\n'
        'all_model_checkpoint_paths: "ckpt-2"\n'
    )
    assert to_tf(run, tmp_path / "tf/ckpt-1") == 2  # is there already
    assert newest(tmp_path / "tf") == "ckpt-2"
    assert (
        main(["from-tensorflow", str(tmp_path / "tf"), str(tmp_path / "back"), "--step", "1"]) == 0
    )


@pytest.mark.parametrize("name", ['a "b" \\ c', "né", "ckpt-1"])
def test_any_name_is_read_back(tmp_path: Path, name: str) -> None:
    record(tmp_path / "other")
    record(tmp_path / name)
    assert newest(tmp_path) == name


def test_what_a_manager_of_tensorflow_recorded_stays(tmp_path: Path) -> None:
    """The text as TensorFlow 2.21 writes it."""
    path = tmp_path / "checkpoint"
    path.write_text(
        'model_checkpoint_path: "n\\303\\251-7"\n'
        'all_model_checkpoint_paths: "ckpt-6"\n'
        'all_model_checkpoint_paths: "n\\303\\251-7"\n'
        "all_model_checkpoint_timestamps: 1700000000.25\n"
        "all_model_checkpoint_timestamps: 1700000001.5\n"
        "last_preserved_timestamp: 1699999999.0\n"
    )
    assert newest(tmp_path) == "né-7"
    record(tmp_path / "ckpt-8")
    record(tmp_path / "ckpt-6")
    lines = path.read_text().splitlines()
    assert lines[:4] == [
        'model_checkpoint_path: "ckpt-6"',
        'all_model_checkpoint_paths: "n\\303\\251-7"',
        'all_model_checkpoint_paths: "ckpt-8"',
        'all_model_checkpoint_paths: "ckpt-6"',
    ]
    assert lines[4] == "all_model_checkpoint_timestamps: 1700000001.5"
    assert [line.split(":")[0] for line in lines[5:]] == [
        "all_model_checkpoint_timestamps",
        "all_model_checkpoint_timestamps",
        "last_preserved_timestamp",
    ]


def test_a_full_disk_names_the_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert to_tf(run, tmp_path / "tf/ckpt-1") == 2
    assert f"No space left on device: '{tmp_path}/tf/ckpt-1'" in capsys.readouterr().err

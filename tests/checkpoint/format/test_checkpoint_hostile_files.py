"""Directories that others may write to: nothing hangs, nothing is written or removed through a link."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints.checkpoint_fakes import FakeEmbedding, assert_same, random_values, table, whole

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import inspection
from torch_tpu_embedding.checkpoint.format import durable

TABLES = [table("user", 20), table("item", 5, 2)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Step 1, and step 2, a delta on it."""
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES, 1))
    checkpoint.save(embedding, tmp_path / "run", 1, {"at": 1})
    embedding.shard.train([1, 2])
    checkpoint.save(embedding, tmp_path / "run", 2, {"at": 2}, since=1)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Nothing here may wait: an alarm interrupts what hangs."""

    def late(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def socket_at(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name[:90])
        os.rename(path.name[:90], path.name)


STANDS_IN: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "not a regular file but a pipe"),
    "endless device": (
        lambda path: path.symlink_to("/dev/zero"),
        "not a regular file but a device",
    ),
    "link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "link to nowhere": (
        lambda path: path.symlink_to("nowhere"),
        "missing|cannot be read|no complete",
    ),
    "directory": (Path.mkdir, "not a regular file but a directory"),
    "socket": (socket_at, "not a regular file but something else"),
}


@pytest.mark.parametrize("kind", STANDS_IN)
@pytest.mark.parametrize("file", ["weight-*", "ids-*", "accumulators-*", "extra-*", "model.*"])
def test_what_is_no_regular_file_is_an_error_that_names_it_and_never_a_wait(
    run: Path, kind: str, file: str
) -> None:
    make, text = STANDS_IN[kind]
    (path,) = (run / "step-2").glob(file)
    path.unlink()
    make(path)
    for verify in (True, False):
        with pytest.raises((checkpoint.CheckpointError, OSError)) as caught:
            checkpoint.load(FakeEmbedding(TABLES), run, 2, verify=verify)
        if file == "model.*":  # then step 2 is not complete at all
            assert "no complete step 2" in str(caught.value)
        else:
            assert str(path) in str(caught.value)
            assert re.search(text, str(caught.value))
        with pytest.raises((checkpoint.CheckpointError, OSError)):
            checkpoint.open(run, 2, verify=verify).extra()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert checkpoint.load(FakeEmbedding(TABLES), run, fall_back=True).step == 1
    found = inspection.verify(run, 2, lambda count: None)
    assert not found["ok"]
    assert str(path) in found["steps"][0]["errors"][0]


def test_a_file_of_another_size_is_not_hashed(run: Path) -> None:
    (path,) = (run / "step-2").glob("extra-*")
    os.truncate(path, 1 << 43)  # takes no room, and days to hash
    with pytest.raises(
        checkpoint.CheckpointError, match=r"extra-.*: torn or truncated, 8796093022208 bytes"
    ):
        checkpoint.load(FakeEmbedding(TABLES), run)


def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "file"])
def test_nothing_is_written_into_what_stood_there_before(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that a save creates, foreseen by somebody else."""
    precious = victim(tmp_path)
    real, names = durable.create, []
    monkeypatch.setattr(durable, "create", lambda path: names.append(path) or real(path))
    checkpoint.save(FakeEmbedding(TABLES), tmp_path / "run", 0, {"a": 1})
    for number in range(len(names)):
        seen = iter(range(len(names)))

        def foreseen(path: Path, number: int = number, seen: Any = seen) -> int | None:
            if next(seen) == number:
                if kind == "link":
                    path.symlink_to(precious)
                elif kind == "hard link":
                    os.link(precious, path)
                elif kind == "pipe":
                    os.mkfifo(path)
                else:
                    path.write_text("not ours")
            return real(path)

        monkeypatch.setattr(durable, "create", foreseen)
        with pytest.raises(FileExistsError):
            checkpoint.save(FakeEmbedding(TABLES), tmp_path / str(number), 0, {"a": 1})
        assert precious.read_text() == "precious"
        assert checkpoint.complete_steps(tmp_path / str(number)) == []
        monkeypatch.undo()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_the_index_is_not_written_into_what_took_the_place_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[..., Any]
) -> None:
    precious = victim(tmp_path)
    real = durable.open_empty

    def swapped(path: Path) -> None:
        path.unlink()
        link(precious, path)
        return real(path)

    monkeypatch.setattr(durable, "open_empty", swapped)
    with pytest.raises(OSError):
        checkpoint.save(FakeEmbedding(TABLES), tmp_path / "run", 0)
    assert precious.read_text() == "precious"
    assert checkpoint.complete_steps(tmp_path / "run") == []


def test_exports_write_through_no_foreseen_link(run: Path, tmp_path: Path) -> None:
    precious = victim(tmp_path)
    for name in ("user.npy", "user.safetensors"):
        (tmp_path / (name + ".tmp")).symlink_to(precious)
        with checkpoint.open(run) as reader:
            checkpoint.export_table(reader, "user", tmp_path / name)
        assert (tmp_path / name).stat().st_size > 300
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(precious)
        with checkpoint.open(run) as reader:
            checkpoint.export_table(reader, "user", tmp_path / name)
        assert not (tmp_path / name).is_symlink()
    assert precious.read_text() == "precious"


def test_keep_last_and_overwrite_remove_nothing_through_a_link(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    checkpoint.save(FakeEmbedding(TABLES), other, 0)
    checkpoint.save(FakeEmbedding(TABLES), other, 9)
    (other / "step-5").mkdir()
    leftover = other / "step-5/extra-0123456789ab.pt"
    leftover.write_text("another's")
    for step in (0, 5, 9):
        (run / f"step-{step}").symlink_to(other / f"step-{step}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(FakeEmbedding(TABLES), run, 8, keep_last=1)
        checkpoint.save(FakeEmbedding(TABLES), run, 7, keep_last=1, overwrite=True)
    assert checkpoint.complete_steps(other) == [0, 9]
    assert checkpoint.load(FakeEmbedding(TABLES), other, 9).step == 9
    assert leftover.exists()


def test_a_save_does_not_write_through_a_linked_step(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "step-3").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        NotADirectoryError, match="step-3: a link, which a save does not follow; remove"
    ):
        checkpoint.save(FakeEmbedding(TABLES), run, 3)
    (run / "step-3").unlink()  # the remedy
    checkpoint.save(FakeEmbedding(TABLES), run, 3)
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_step_behind_links_to_regular_files_loads(run: Path, tmp_path: Path) -> None:
    """As download caches lay them out."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "copy/step-1").mkdir(parents=True)
    for path in (run / "step-1").iterdir():
        path.rename(tmp_path / "blobs" / path.name)
        (tmp_path / "copy/step-1" / path.name).symlink_to(tmp_path / "blobs" / path.name)
    embedding = FakeEmbedding(TABLES)
    assert checkpoint.load(embedding, tmp_path / "copy").step == 1
    assert_same(whole([embedding.shard]), random_values(TABLES, 1))

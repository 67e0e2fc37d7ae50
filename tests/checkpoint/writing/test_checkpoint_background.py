"""Saves in the background: the rows of the moment of the call, and no failure in silence."""

from __future__ import annotations

import importlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import pytest
import torch
from checkpoints.checkpoint_fakes import FakeEmbedding, assert_same, random_values, table, whole
from places import ROOT, SLOW
from processes.launch import forked_python
from processes.worlds import ThreadGroup, run_processes

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format import durable
from torch_tpu_embedding.checkpoint.save import _Job
from torch_tpu_embedding.checkpoint.writing import begin, commit
from torch_tpu_embedding.distributed import lost_peers
from torch_tpu_embedding.distributed.group import DistGroup, PeerError

save_module = importlib.import_module("torch_tpu_embedding.checkpoint.save")
TABLES = [table("user", 20), table("item", 5, 2)]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Holds back every sync of a file until it is set."""
    event, real = threading.Event(), durable.sync_file

    def slow(descriptor: int) -> None:
        assert event.wait(10 * SLOW)
        real(descriptor)

    monkeypatch.setattr(durable, "sync_file", slow)
    yield event
    event.set()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def full(descriptor: int, data: memoryview) -> Never:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "write_all", full)
        yield patch


def test_training_goes_on_and_the_rows_of_the_call_are_saved(
    tmp_path: Path, gate: threading.Event
) -> None:
    values = random_values(TABLES)
    embedding = FakeEmbedding(TABLES, values=values)
    extra = {"w": torch.ones(2)}
    handle = checkpoint.save(embedding, tmp_path, 1, extra, asynchronous=True)
    embedding.shard.train(range(20))
    extra["w"] += 1
    assert not handle.done()
    assert checkpoint.complete_steps(tmp_path) == []
    gate.set()
    handle.wait()
    assert handle.done()
    assert checkpoint.load(embedding, tmp_path).extra["w"].tolist() == [1, 1]
    assert_same(whole([embedding.shard]), values)


def test_several_processes_save_in_the_background_without_collectives(tmp_path: Path) -> None:
    values = random_values(TABLES)

    def work(group: ThreadGroup) -> None:
        embedding = FakeEmbedding(TABLES, group, values=values)
        handle = checkpoint.save(embedding, tmp_path, 1, asynchronous=True)
        group.gather_objects = None  # training is busy with it
        handle.wait()
        assert checkpoint.complete_steps(tmp_path) == [1]

    run_processes(3, work)
    embedding = FakeEmbedding(TABLES)
    checkpoint.load(embedding, tmp_path)
    assert_same(whole([embedding.shard]), values)


def test_the_next_save_and_load_wait(tmp_path: Path, gate: threading.Event) -> None:
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES))
    checkpoint.save(embedding, tmp_path, 1, asynchronous=True)
    threading.Timer(0.1, gate.set).start()
    checkpoint.save(embedding, tmp_path, 2, asynchronous=True)
    assert 1 in checkpoint.complete_steps(tmp_path)
    assert checkpoint.load(FakeEmbedding(TABLES), tmp_path).step == 2  # another, same directory


def test_wait_waits_for_one_directory_or_all(tmp_path: Path, gate: threading.Event) -> None:
    checkpoint.save(FakeEmbedding(TABLES), tmp_path / "a", 1, asynchronous=True)
    checkpoint.wait(tmp_path / "b")
    assert checkpoint.complete_steps(tmp_path / "a") == []
    gate.set()
    checkpoint.wait(tmp_path / "a")
    assert checkpoint.complete_steps(tmp_path / "a") == [1]
    checkpoint.wait()


@pytest.mark.parametrize("call", ["save", "load", "wait", "handle"])
def test_a_failure_in_the_background_is_raised_once_at_the_next_call(
    tmp_path: Path, full_disk: pytest.MonkeyPatch, call: str
) -> None:
    embedding = FakeEmbedding(TABLES)
    handle = checkpoint.save(embedding, tmp_path, 1, asynchronous=True)
    while not handle.done():
        time.sleep(0.01)
    full_disk.undo()
    calls = {
        "save": lambda: checkpoint.save(embedding, tmp_path, 2),
        "load": lambda: checkpoint.load(embedding, tmp_path),
        "wait": checkpoint.wait,
        "handle": handle.wait,
    }
    with pytest.raises(OSError, match="No space left on device") as caught:
        calls[call]()
    assert f"background save of step 1 in {tmp_path}" in caught.value.__notes__[-1]
    checkpoint.wait()
    checkpoint.save(embedding, tmp_path, 1)  # and then life goes on
    assert checkpoint.complete_steps(tmp_path) == [1]


SCRIPT = """
import os, sys, time
sys.path.insert(0, "tests/support")
from checkpoints.checkpoint_fakes import FakeEmbedding, table
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format import durable
real = durable.sync_file
def slow(descriptor):
    time.sleep(0.05)
    if "/bad/" in os.readlink(f"/proc/self/fd/{descriptor}"):
        raise OSError("disk gone")
    real(descriptor)
durable.sync_file = slow
for name in ("good", "bad"):
    embedding = FakeEmbedding([table("user", 20)])
    checkpoint.save(embedding, os.path.join(sys.argv[1], name), 1, asynchronous=True)
"""


def test_the_end_of_the_program_waits_and_shows_a_failure(tmp_path: Path) -> None:
    ended = subprocess.run(
        [forked_python(), "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=20 * SLOW,
    )  # fmt: skip
    assert checkpoint.complete_steps(tmp_path / "good") == [1], ended.stderr
    assert checkpoint.complete_steps(tmp_path / "bad") == []
    assert f"the background save of step 1 in {tmp_path / 'bad'} failed" in ended.stderr
    assert "disk gone" in ended.stderr
    assert "good" not in ended.stderr


@pytest.mark.parametrize("lost", [0, 1])
def test_a_background_save_does_not_wait_for_a_process_that_is_known_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr(commit, "_GRACE_S", 0.2)
    monkeypatch.setattr(lost_peers, "_reason", None)
    real = save_module._Job.run

    def run(job: _Job) -> None:
        if job.attempt.rank == lost:
            return  # killed
        real(job)

    monkeypatch.setattr(save_module._Job, "run", run)
    errors = []

    def work(group: ThreadGroup) -> None:
        embedding = FakeEmbedding(TABLES, group)
        handle = checkpoint.save(embedding, tmp_path, 1, asynchronous=True, timeout=600)
        if group.rank == 2:
            time.sleep(0.05)
            with pytest.raises(PeerError), DistGroup._contact(group, "gathering sizes"):
                raise RuntimeError("connection reset by peer")
        try:
            handle.wait()
        except checkpoint.CheckpointError as error:
            errors.append(str(error))

    start = time.monotonic()
    run_processes(3, work)
    assert time.monotonic() - start < 10 * SLOW
    assert len(errors) == 2
    text = "did not appear, and process 2 lost another process while gathering sizes"
    assert any(text in each for each in errors), errors
    assert checkpoint.complete_steps(tmp_path) == []


def test_a_background_save_is_complete_if_the_lost_process_had_written_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_peers, "_reason", "process 1 lost another process")
    values = random_values(TABLES)

    def work(group: ThreadGroup) -> None:
        embedding = FakeEmbedding(TABLES, group, values=values)
        checkpoint.save(embedding, tmp_path, 1, asynchronous=True).wait()

    run_processes(2, work)
    found = FakeEmbedding(TABLES)
    checkpoint.load(found, tmp_path)
    assert_same(whole([found.shard]), values)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_processes_with_different_directories_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setattr(begin, "_TICKET_TIMEOUT_S", 0.1)
    errors = []

    def work(group: ThreadGroup, names: tuple[str, str] = ("a", "b")) -> None:
        embedding = FakeEmbedding(TABLES, group)
        run = tmp_path / names[group.rank]
        try:
            checkpoint.save(embedding, run, 1, asynchronous=asynchronous).wait()
        except (checkpoint.CheckpointError, PeerError) as error:
            errors.append(str(error))

    start = time.monotonic()
    run_processes(2, work)
    assert time.monotonic() - start < 10 * SLOW
    text = f"{tmp_path}/b: process 1 does not see here what process 0 has just written to {tmp_path}/a; "
    assert len(errors) == 2
    assert all(text in each for each in errors)
    assert not [*tmp_path.glob("*/step-1")]
    (tmp_path / "b").rmdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")  # another name of one directory is no fault
    run_processes(2, work)
    assert checkpoint.complete_steps(tmp_path / "b") == [1]

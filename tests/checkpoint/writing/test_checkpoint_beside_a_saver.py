"""Reading while a job saves and removes steps: all of a step, or an error before a row has changed."""

from __future__ import annotations

import importlib
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from checkpoints.checkpoint_fakes import (
    FakeEmbedding,
    FakeShard,
    assert_same,
    random_values,
    table,
    whole,
)
from processes.worlds import ThreadGroup, run_processes

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.errors import StepRemovedError
from torch_tpu_embedding.checkpoint.format import extra, regular, safetensors_file
from torch_tpu_embedding.checkpoint.load import _Opened
from torch_tpu_embedding.checkpoint.reading import open_files, reader

TABLES = [table("user", 20), table("item", 5, 2)]


def save(run: Path, step: int, **options: object) -> None:
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES, step))
    checkpoint.save(embedding, run, step, {"at": step}, max_file_bytes=100, **options)


def chain(run: Path) -> None:
    """Step 1, and deltas 2 and 3 on it that change a row each."""
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES, 1))
    checkpoint.save(embedding, run, 1, max_file_bytes=100)
    for step in (2, 3):
        embedding.shard.train([step])
        checkpoint.save(embedding, run, step, since=step - 1, max_file_bytes=100)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The paths that were opened for reading; `at` says before which of them `then` is called."""

    class Opened(list):
        at, then = -1, staticmethod(lambda: None)

    found, real = Opened(), safetensors_file.open_regular

    def watched(path: Path) -> int | None:
        if len(found) == found.at:
            found.at = -1
            found.then()
        found.append(path)
        return real(path)

    for module in (safetensors_file, regular, extra):
        monkeypatch.setattr(module, "open_regular", watched)
    return found


def test_a_load_reads_on_when_the_step_is_removed_once_all_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(tmp_path)
    wanted = FakeEmbedding(TABLES)
    checkpoint.load(wanted, tmp_path)
    load = importlib.import_module("torch_tpu_embedding.checkpoint.load")
    real = load._fill

    def fill(*args: Path | FakeEmbedding | _Opened) -> None:
        for path in [*tmp_path.glob("step-*/*")]:
            path.unlink()
        real(*args)

    monkeypatch.setattr(load, "_fill", fill)
    found = FakeEmbedding(TABLES)
    assert checkpoint.load(found, tmp_path, 3).step == 3
    assert_same(whole([found.shard]), whole([wanted.shard]))


@pytest.mark.parametrize("given", [None, 1])
def test_a_step_removed_at_any_moment_of_a_load_gives_the_newer_one_or_an_error(
    tmp_path: Path, opened: Any, given: int | None
) -> None:
    told, texts = set(), set()
    for at in itertools.count():
        run = tmp_path / str(at)
        save(run, 1)
        opened.clear()
        opened.at, opened.then = at, lambda run=run: save(run, 2, keep_last=1)
        found = FakeEmbedding(TABLES)
        try:
            step = checkpoint.load(found, run, given).step
        except StepRemovedError as error:
            assert not any(rows.any() for fields in found.shard.held for rows in fields.values())
            texts.add(str(error).replace(str(run), "RUN"))
            told.add("removed")
        else:
            assert_same(whole([found.shard]), random_values(TABLES, step))
            told.add(step)
        if opened.at != -1:  # the load ended before
            break
    assert at > 8
    assert told == ({1, 2} if given is None else {1, "removed"})
    assert texts <= {
        "RUN/step-1: removed or replaced by a save while it was being read, nothing was loaded; load "
        "again, and give that save a larger keep_last if this happens often"
    }


def test_a_removed_step_is_opened_anew_as_the_newest_and_by_all_processes(
    tmp_path: Path, opened: Any
) -> None:
    save(tmp_path, 1)
    lock = threading.Lock()
    opened.at = 12

    def then() -> None:
        with lock:
            save(tmp_path, 2, keep_last=1)

    opened.then = then

    def work(group: ThreadGroup) -> tuple[int, FakeShard]:
        embedding = FakeEmbedding(TABLES, group)
        step = checkpoint.load(embedding, tmp_path).step
        return step, embedding.shard

    results = run_processes(3, work)
    steps = {step for step, _ in results}
    assert len(steps) == 1
    assert_same(whole([shard for _, shard in results]), random_values(TABLES, *steps))


def test_open_takes_the_newer_step_when_the_newest_is_removed_meanwhile(
    tmp_path: Path, opened: Any
) -> None:
    save(tmp_path, 1)
    opened.at, opened.then = 3, lambda: save(tmp_path, 2, keep_last=1)
    with checkpoint.open(tmp_path) as found:
        assert found.step == 2
        save(tmp_path, 3, keep_last=1)
        assert not (tmp_path / "step-2").exists()
        rows = found.read("user", "weight", 0, 20)
    assert_same(
        {"user": {"weight": rows}}, {"user": {"weight": random_values(TABLES, 2)["user"]["weight"]}}
    )


def test_more_files_than_may_be_open_are_opened_again_but_their_headers_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(tmp_path)
    headers = []
    real = safetensors_file.TensorFile._header
    monkeypatch.setattr(
        safetensors_file.TensorFile,
        "_header",
        lambda self, size: headers.append(self.path) or real(self, size),
    )
    monkeypatch.setattr(reader, "OpenFiles", lambda: open_files.OpenFiles(limit=2))
    wanted = random_values(TABLES, 1)
    open_before = len(os.listdir("/proc/self/fd"))
    with checkpoint.open(tmp_path, 1) as found:
        for _ in range(3):
            rows = found.read("user", "weight", 0, 20)
            assert len(os.listdir("/proc/self/fd")) <= open_before + 2
    assert_same({"": {"": rows}}, {"": {"": wanted["user"]["weight"]}})
    assert len(headers) == len({*headers}) > 4
    with checkpoint.open(tmp_path, 1) as found:
        for path in (tmp_path / "step-1").glob("weight-*"):
            content = path.read_bytes()
            path.unlink()
            (tmp_path / "other").write_bytes(
                content
            )  # keeps the number of the file from being used again
            (tmp_path / "other").rename(path)
        with pytest.raises(
            checkpoint.CheckpointError, match="replaced while it was read; load again"
        ):
            found.read("user", "weight", 0, 20)


def test_reading_beside_a_publishing_job_is_always_right(tmp_path: Path) -> None:
    """A delta every few milliseconds with keep_last=1, read by others all the time."""
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES, 1))
    done, errors = threading.Event(), []
    for fields in embedding.shard.held:
        for rows in fields.values():
            rows.fill_(0)
    checkpoint.save(embedding, tmp_path, 0, {"at": 0})

    def publish() -> None:
        try:
            for step in range(1, 16):
                embedding.shard.train(range(20), step)
                since = step - 1 if step % 3 else None
                checkpoint.save(embedding, tmp_path, step, {"at": step}, since=since, keep_last=1)
        except Exception as error:
            errors.append(error)
        done.set()

    writer = threading.Thread(target=publish)
    writer.start()
    reads = 0
    while not done.is_set():
        found = FakeEmbedding(TABLES)
        loaded = checkpoint.load(found, tmp_path)
        assert loaded.extra == {"at": loaded.step}
        rows = [values for fields in found.shard.held for values in fields.values()]
        assert all((each == loaded.step).all() for each in rows)
        reads += 1
    writer.join()
    assert not errors
    assert reads > 1

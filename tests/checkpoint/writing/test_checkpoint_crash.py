"""A save that dies at any moment: what was complete stays, and nothing half-written counts."""

from __future__ import annotations

import errno
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Never

import pytest
from checkpoints.checkpoint_fakes import FakeEmbedding, assert_same, random_values, table, whole
from checkpoints.crashes import OPERATIONS, Killed, deaths
from places import SLOW
from processes.worlds import ThreadGroup, run_processes

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format import durable

TABLES = [table("user", 20), table("item", 5, 2)]


def embedding(seed: int) -> FakeEmbedding:
    return FakeEmbedding(TABLES, values=random_values(TABLES, seed))


def load(directory: Path, **options: object) -> tuple[int, FakeEmbedding]:
    found = FakeEmbedding(TABLES)
    return checkpoint.load(found, directory, **options).step, found


def killed_at_each_operation(directory: Path, **options: object) -> Iterator[Path]:
    """A directory with step 1 complete and a save of step 2 that died, for each place to die."""
    for last in itertools.count():
        run = directory / str(last)
        checkpoint.save(embedding(1), run, 1, {"step": 1})
        survived = False
        with pytest.MonkeyPatch.context() as patch:
            deaths(patch, last)
            try:
                checkpoint.save(embedding(2), run, 2, {"step": 2}, **options)
                survived = True
            except Killed:
                pass
        yield run
        if survived:
            assert last >= 30
            return


@pytest.mark.parametrize("keep_last", [None, 1])
def test_a_save_killed_at_any_operation_leaves_the_newest_complete_step_intact(
    tmp_path: Path, keep_last: int | None
) -> None:
    seen = set()
    for run in killed_at_each_operation(tmp_path, keep_last=keep_last, max_file_bytes=200):
        step, found = load(run)
        seen.add(step)
        assert_same(whole([found.shard]), random_values(TABLES, step))
        with checkpoint.open(run) as reader:
            assert reader.extra() == {"step": step}
    assert seen == {1, 2}


def test_after_a_crash_the_same_step_can_be_saved_and_leftovers_go(tmp_path: Path) -> None:
    for run in killed_at_each_operation(tmp_path):
        (run / "step-9").mkdir()
        (run / "step-9/notes.txt").write_text("not ours")
        if 2 not in checkpoint.complete_steps(run):
            checkpoint.save(embedding(3), run, 2)
        checkpoint.save(embedding(4), run, 3, keep_last=1)
        assert_same(whole([load(run)[1].shard]), random_values(TABLES, 4))
        assert sorted(path.name for path in run.glob("[!.]*")) == ["step-3", "step-9"]
        assert [path.name for path in (run / "step-9").iterdir()] == ["notes.txt"]
        assert len([*(run / "step-3").iterdir()]) == 3


def test_parts_of_a_dead_attempt_are_never_taken_for_those_of_the_next(tmp_path: Path) -> None:
    """A dead attempt of two processes left both manifests; the next must wait for its own."""

    real = durable.write_file

    def full(path: Path, content: bytes) -> None:
        if "index" in path.name or "failed" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "write_file", full)
        patch.setattr(durable, "fill_file", full)
        with pytest.raises(OSError, match="No space left"):
            run_processes(2, 
                lambda group: checkpoint.save(
                    FakeEmbedding(TABLES, group, values=random_values(TABLES, 1)), tmp_path, 2,
                    asynchronous=True, timeout=0.3 if group.rank == 1 else 10 * SLOW,
                ).wait()
            )  # fmt: skip
    (tmp_path / "step-2/rank-00001-0123456789ab.json").write_text('{"pieces": [], "files": {}}')

    run_processes(
        2,
        lambda group: checkpoint.save(
            FakeEmbedding(TABLES, group, values=random_values(TABLES, 2)), tmp_path, 2
        ),
    )
    assert_same(whole([load(tmp_path)[1].shard]), random_values(TABLES, 2))
    assert len([*(tmp_path / "step-2").iterdir()]) == 5


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_on_one_process_is_an_error_on_all_and_leaves_no_step(
    tmp_path: Path, asynchronous: bool, failing: int
) -> None:
    real = durable.write_all

    def full(descriptor: int, data: memoryview) -> None:
        if f"-{failing:05d}-of-" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, data)

    errors = {}

    def work(group: ThreadGroup) -> None:
        try:
            checkpoint.save(
                FakeEmbedding(TABLES, group),
                tmp_path,
                5,
                asynchronous=asynchronous,
                timeout=10 * SLOW,
            ).wait()
        except Exception as error:
            errors[group.rank] = str(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "write_all", full)
        run_processes(2, work)
    assert set(errors) == {0, 1}
    assert all("No space left on device" in text for text in errors.values()), errors
    assert checkpoint.complete_steps(tmp_path) == []
    assert not [*(tmp_path / "step-5").glob("*.safetensors*")]


def test_a_process_that_never_comes_is_a_timeout_that_names_it(tmp_path: Path) -> None:
    from torch_tpu_embedding.checkpoint.writing import commit, shard_writer

    attempt = shard_writer.SaveAttempt(tmp_path, "0123456789ab", 0, 2)
    (tmp_path / "rank-00000-0123456789ab.json").write_text('{"pieces": [], "files": {}}')
    job = commit.Commit(0, "mod", {}, None, None)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"did not appear within 0\.01 s.*process 1 of 2"
    ):
        commit.finish(attempt, job, 0.01)
    (tmp_path / "failed-0123456789ab.json").unlink()
    second = shard_writer.SaveAttempt(tmp_path, "0123456789ab", 1, 2)
    with pytest.raises(checkpoint.CheckpointError, match="see the output of process 0"):
        commit.finish(second, job, 0.01)


def test_a_file_that_shrank_before_the_index_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.sync_directory

    def shrink(path: Path) -> None:
        for each in path.glob("weight-*.safetensors"):
            os.truncate(each, 10)
        real(path)

    monkeypatch.setattr(durable, "sync_directory", shrink)
    with pytest.raises(checkpoint.CheckpointError, match="10 bytes after it was written with"):
        checkpoint.save(embedding(0), tmp_path, 0)
    assert checkpoint.complete_steps(tmp_path) == []


def test_keep_last_neither_counts_nor_removes_damaged_steps(tmp_path: Path) -> None:
    for step in (0, 1, 2):
        checkpoint.save(embedding(step), tmp_path, step)
    (tmp_path / "step-2/model.safetensors.index.json").write_text("{")
    with pytest.warns(UserWarning, match="keep_last leaves step 2 alone: .*step-2.*damaged"):
        checkpoint.save(embedding(3), tmp_path, 3, keep_last=2)
    assert checkpoint.complete_steps(tmp_path) == [1, 2, 3]


def test_failing_to_tidy_up_warns_for_the_step_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Never:
        raise PermissionError(f"not yours: {path}")

    monkeypatch.setattr(durable, "remove", fail)
    with pytest.warns(UserWarning, match="step 0 is complete, but tidying up failed: not yours"):
        checkpoint.save(embedding(0), tmp_path, 0)
    assert load(tmp_path)[0] == 0


def test_everything_is_synced_before_the_index_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut loses what was not synced: files before their rename, the directory before the index."""
    log: list[tuple[str, str]] = []
    names = ("sync_file", "rename", "link", "sync_directory")
    real = {name: getattr(durable, name) for name in names}

    def sync_file(descriptor: int) -> None:
        log.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        real["sync_file"](descriptor)

    def rename(source: Path, target: Path) -> None:
        log.append(("rename", target.name))
        real["rename"](source, target)

    def link(source: Path, target: Path) -> None:
        log.append(("link", f"{source.name} {target.name}"))
        real["link"](source, target)

    def sync_directory(path: Path) -> None:
        log.append(("directory", path.name))
        real["sync_directory"](path)

    for name, logged in zip(names, (sync_file, rename, link, sync_directory), strict=True):
        monkeypatch.setattr(durable, name, logged)
    checkpoint.save(embedding(0), tmp_path / "run", 4, {"a": 1}, max_file_bytes=100)
    with checkpoint.open(tmp_path / "run") as reader:
        data = set(reader.index.files)
        ticket = f"index-{reader.index.save_id}.json"
    assert len(data) > 8
    index = "model.safetensors.index.json"
    end = log.index(("link", f"{ticket} {index}"))
    assert ("sync", ticket) in log[:end]
    for name in data:
        assert log.index(("sync", name + ".tmp")) < log.index(("rename", name)) <= end
    last = max(log.index(("rename", name)) for name in data)
    assert ("directory", "step-4") in log[last:end]
    assert ("directory", "step-4") in log[end:]
    assert ("directory", "run") in log[:end]  # the step's own name
    assert ("directory", tmp_path.name) in log[:end]


def test_a_step_whose_last_sync_fails_is_complete_and_no_older_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be loaded, so that to save it again would fail; but a power cut may take it."""
    checkpoint.save(embedding(1), tmp_path, 1)
    real = durable.sync_directory

    def fail(path: Path) -> None:
        if (path / "model.safetensors.index.json").exists():
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "sync_directory", fail)
        with pytest.warns(
            UserWarning, match="step 2 is complete, but its directory could not be synced"
        ):
            checkpoint.save(embedding(2), tmp_path, 2, keep_last=1)
    assert checkpoint.complete_steps(tmp_path) == [1, 2]
    assert_same(whole([load(tmp_path)[1].shard]), random_values(TABLES, 2))
    checkpoint.save(embedding(3), tmp_path, 3, keep_last=1)
    assert checkpoint.complete_steps(tmp_path) == [3]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_failing_operation_makes_a_complete_step_count_as_failed_or_the_reverse(
    tmp_path: Path, no_syncs: None, name: str, asynchronous: bool
) -> None:
    """Each call of each operation, on either of two processes, fails once with an I/O error."""
    for number in itertools.count():
        run = tmp_path / f"{number}"
        checkpoint.save(embedding(1), run, 1)
        calls, raised = itertools.count(), []
        real = getattr(durable, name)

        def fail(
            *args: int | Path | memoryview,
            calls: count = calls,
            real: Callable[..., Any] = real,
            number: int = number,
        ) -> int | None:
            if next(calls) == number:
                raise OSError(errno.EIO, "Input/output error")
            return real(*args)

        def work(group: ThreadGroup, run: Path = run, raised: list[Any] = raised) -> None:
            values = random_values(TABLES, 2)
            each = FakeEmbedding(TABLES, group, values=values)
            try:
                checkpoint.save(
                    each, run, 2, keep_last=1, asynchronous=asynchronous, timeout=10 * SLOW
                ).wait()
            except Exception as error:
                raised.append((group.rank, error))

        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr(durable, name, fail)
            run_processes(2, work)
        complete = checkpoint.complete_steps(run)
        assert (2 in complete) != (0 in [rank for rank, _ in raised]), raised
        assert_same(whole([load(run)[1].shard]), random_values(TABLES, complete[-1]))
        if 2 not in complete:
            checkpoint.save(embedding(3), run, 2)  # it can be tried again
            assert_same(whole([load(run)[1].shard]), random_values(TABLES, 3))
        if next(calls) <= number:
            break

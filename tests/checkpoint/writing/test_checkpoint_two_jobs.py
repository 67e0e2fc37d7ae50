"""Two jobs in one directory, which is forbidden and happens: neither loses a step or is told a lie.

A *straggler* is a job that stood still (a hung file system, a stopped machine) while another took its
place.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints.checkpoint_fakes import FakeEmbedding
from checkpoints.crashes import OPERATIONS
from checkpoints.two_jobs import TABLES, save, three_steps, whose
from places import SCRIPTS, SLOW

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format import durable
from torch_tpu_embedding.checkpoint.writing import writer

Outcome = Exception | None

pytestmark = pytest.mark.usefixtures("no_syncs")


class Straggler:
    """Work in a thread that stands still before its file operation number `at`, until it is woken."""

    def __init__(self, work: Callable[[], None], at: int) -> None:
        self.standing, self._woken = threading.Event(), threading.Event()
        self.error: Outcome = None
        self.ended_first = False
        self._work, self._left = work, at
        self._thread = threading.Thread(target=self._run)
        self._patch = pytest.MonkeyPatch()
        for name in OPERATIONS:
            self._patch.setattr(durable, name, self._counted(getattr(durable, name)))

    def __enter__(self) -> Straggler:
        self._thread.start()
        self.standing.wait(10 * SLOW)
        return self

    def wake(self) -> None:
        self._woken.set()
        self._thread.join(10 * SLOW)

    def __exit__(self, *error: object) -> None:
        self.wake()
        self._patch.undo()

    def _counted(self, real: Callable) -> Callable:
        def operation(*args: int | Path | memoryview) -> int | None:
            if threading.current_thread() is self._thread:
                if not self._left:
                    self.standing.set()
                    assert self._woken.wait(10 * SLOW)
                self._left -= 1
            return real(*args)

        return operation

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self.error = error
        self.ended_first = not self.standing.is_set()
        self.standing.set()


def standing_at_each_operation(
    directory: Path,
    before: Callable[[Path], FakeEmbedding],
    work: Callable[[Path, FakeEmbedding], None],
) -> Iterator[tuple[Path, Straggler]]:
    """Runs with a straggler that stands still, for each of its file operations."""
    for at in itertools.count():
        run = directory / str(at)
        embedding = before(run)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Straggler(lambda run=run, each=embedding: work(run, each), at) as straggler:
                if straggler.ended_first:
                    assert straggler.error is None
                    assert at > 25
                    return
                yield run, straggler


def newest(run: Path) -> int:
    return checkpoint.complete_steps(run)[-1]


@pytest.mark.parametrize(("keep_last", "delta"), [(None, True), (2, False), (2, True)])
def test_a_straggler_at_any_operation_takes_nothing_from_the_job_that_replaced_it(
    tmp_path: Path, keep_last: int | None, delta: bool
) -> None:
    errors = set()

    def work(run: Path, embedding: FakeEmbedding) -> None:
        save("old", run, 4, embedding, keep_last=1, since=3 if delta else None)

    for run, straggler in standing_at_each_operation(tmp_path, three_steps, work):
        there = checkpoint.complete_steps(run)
        embedding = FakeEmbedding(TABLES)
        first = checkpoint.load(embedding, run).step
        for step in (first + 1, first + 2):
            save(
                "new", run, step, embedding, keep_last=keep_last, since=step - 1 if delta else None
            )
        kept = checkpoint.complete_steps(run)
        straggler.wake()
        after = checkpoint.complete_steps(run)
        assert {*kept} <= {*after}
        assert keep_last is not None or {*there} <= {*after}
        assert [whose(run, step) for step in after[-2:]] == ["new", "new"]
        for step in after[:-2]:
            assert whose(run, step) == "old"
        if straggler.error is None:  # it was told that step 4 is complete
            assert 4 in there or 4 in after
        else:
            errors.add(str(straggler.error).replace(str(run), "RUN").split(" (")[0])
    assert any("RUN: another job saves here now" in text for text in errors), errors


@pytest.mark.parametrize("base", ["newest", "older"])
def test_a_straggler_that_cannot_see_that_it_was_replaced_takes_no_later_step_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    """A network file system may show it an old listing; then names and links alone must do."""
    monkeypatch.setattr(writer.Claim, "holds", lambda self: True)
    monkeypatch.setattr(writer.Claim, "require", lambda self: None)

    def work(run: Path, embedding: FakeEmbedding) -> None:
        save("old", run, 4, embedding, keep_last=1)

    for run, straggler in standing_at_each_operation(tmp_path, three_steps, work):
        embedding = FakeEmbedding(TABLES)
        there = checkpoint.complete_steps(run)
        first = 3 if base == "older" and 3 in there else there[-1]
        checkpoint.load(embedding, run, first)
        save("new", run, 5, embedding, since=first)
        save("new", run, 6, embedding, since=5)
        kept = checkpoint.complete_steps(run)
        straggler.wake()
        after = checkpoint.complete_steps(run)
        assert {first, 5, 6} <= {*after}  # the deltas of the new job and what they stand on
        assert [whose(run, step) for step in after[-2:]] == ["new", "new"]
        if straggler.error is None and 4 not in kept:
            assert 4 in after


def test_a_straggler_at_any_operation_and_a_job_that_saves_the_same_step(tmp_path: Path) -> None:
    """One of them is told that the step is complete, and it is that one's; or both fail, and it is not."""
    told = set()

    def work(run: Path, embedding: FakeEmbedding) -> None:
        save("old", run, 4, embedding, keep_last=2)

    for run, straggler in standing_at_each_operation(tmp_path, three_steps, work):
        there = checkpoint.complete_steps(run)
        error: Outcome = None
        try:
            save("new", run, 4, keep_last=5)
        except (FileExistsError, checkpoint.CheckpointError) as caught:
            error = caught
        straggler.wake()
        after = checkpoint.complete_steps(run)
        refused = isinstance(
            error, FileExistsError
        )  # then the other still is the one to remove steps
        assert {*there[-2 if refused else 0 :]} <= {*after}
        assert (4 in after) == (error is None or straggler.error is None)
        if 4 in after:
            job = whose(run, 4)
            assert (error if job == "new" else straggler.error) is None
            assert (straggler.error if job == "new" else error) is not None
            told.add(job)
        for step in after[:-1]:
            whose(run, step)
    assert told == {"old", "new"}


def test_a_straggler_at_any_operation_and_a_run_that_went_back_and_on(tmp_path: Path) -> None:
    def work(run: Path, embedding: FakeEmbedding) -> None:
        save("old", run, 4, embedding, keep_last=1)

    def before(run: Path) -> FakeEmbedding:
        embedding = three_steps(run)
        save("old", run, 9, FakeEmbedding(TABLES))  # of an earlier branch
        checkpoint.load(embedding, run, 3)
        return embedding

    for run, straggler in standing_at_each_operation(tmp_path, before, work):
        embedding = FakeEmbedding(TABLES)
        first = checkpoint.complete_steps(run)[0]
        checkpoint.load(embedding, run, first)
        for step in (2, 3, 4):
            save("new", run, step, embedding, overwrite=True)
        assert newest(run) == 4
        straggler.wake()
        after = checkpoint.complete_steps(run)
        assert [step for step in (2, 3, 4) if whose(run, step) != "new"] == []
        assert after[-3:] == [2, 3, 4]


def test_a_job_at_any_operation_is_not_robbed_by_an_older_one(tmp_path: Path) -> None:
    """The straggler is the newer job here: the older one meets its claim, and leaves its files alone."""
    jobs = {}

    def before(run: Path) -> FakeEmbedding:
        jobs[run] = three_steps(run)
        embedding = FakeEmbedding(TABLES)
        checkpoint.load(embedding, run)
        return embedding

    def work(run: Path, embedding: FakeEmbedding) -> None:
        save("new", run, 5, embedding, since=3)

    for run, straggler in standing_at_each_operation(tmp_path, before, work):
        error: Outcome = None
        try:
            save("old", run, 4, jobs[run], keep_last=1)
        except checkpoint.CheckpointError as caught:
            error = caught
        kept = checkpoint.complete_steps(run)
        straggler.wake()
        after = checkpoint.complete_steps(run)
        assert {*kept} <= {*after}
        assert (5 in after) == (straggler.error is None)
        assert (4 in after) == (error is None)
        for step in after:
            whose(run, step)


def test_the_job_that_began_last_saves_and_the_other_is_told_which_and_what_to_do(
    tmp_path: Path,
) -> None:
    old, new = FakeEmbedding(TABLES), FakeEmbedding(TABLES)
    save("old", tmp_path, 1, old)
    save("new", tmp_path, 2, new)
    for step in (2, 3):
        with pytest.raises(
            (checkpoint.CheckpointError, FileExistsError),
            match=r"another job saves here now \(process \d+ on .*, since 2.*load the newest step|comp",
        ):
            save("old", tmp_path, step, old)
    assert not (tmp_path / "step-3").exists()
    save("new", tmp_path, 3, new)
    checkpoint.load(old, tmp_path)  # the remedy
    save("old", tmp_path, 4, old)
    with pytest.raises(checkpoint.CheckpointError, match="another job saves here now"):
        save("new", tmp_path, 5, new)
    assert checkpoint.complete_steps(tmp_path) == [1, 2, 3, 4]
    assert len([*tmp_path.glob(".writer-*")]) == 1


def test_a_killed_job_locks_nobody_out(tmp_path: Path) -> None:
    save("old", tmp_path, 1)
    (tmp_path / ".writer-00000007-0123456789ab.json").write_text("")  # it died while it wrote this
    save("new", tmp_path, 2)
    assert [each.name[:17] for each in tmp_path.glob(".writer-*")] == [".writer-00000008-"]
    assert [whose(tmp_path, 1), whose(tmp_path, 2)] == ["old", "new"]


def test_no_round_of_the_campaign_of_two_jobs_loses_a_step(tmp_path: Path) -> None:
    """Processes that are stopped and killed at random moments; `--rounds 200` is for the documents."""
    script = SCRIPTS / "checkpoint_two_jobs.py"
    report = tmp_path / "report.json"
    command = [sys.executable, script, "--rounds", "4", "--rows", "600", "--json", report]
    ended = subprocess.run(
        [*map(str, command), "--directory", str(tmp_path)],
        capture_output=True, text=True, timeout=60 * SLOW,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(report.read_text())
    assert (found["lost"], found["silently wrong"]) == (0, 0)
    assert sum(counts["rounds"] for counts in found["counts"].values()) == 4
    assert sum(counts["steps told complete"] for counts in found["counts"].values()) > 0

"""The states of a try to save a step, and what two jobs that meet in one can do to each other."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Never

import pytest
from checkpoints.checkpoint_fakes import FakeEmbedding
from checkpoints.two_jobs import TABLES, save, three_steps, whose

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format import durable
from torch_tpu_embedding.checkpoint.format.index import Base
from torch_tpu_embedding.checkpoint.writing import attempts, retention

pytestmark = pytest.mark.usefixtures("no_syncs")


def test_without_links_the_index_is_renamed_if_its_name_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Path, **kwargs: bool) -> Never:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    save("old", tmp_path, 1)
    assert whose(tmp_path, 1) == "old"
    (tmp_path / "ticket").touch()
    with pytest.raises(FileExistsError, match="index"):
        durable.link(tmp_path / "ticket", tmp_path / "step-1/model.safetensors.index.json")
    assert (tmp_path / "ticket").exists()


def test_a_link_that_was_made_and_reported_as_failed_is_a_complete_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network file system does that sends a request twice, or loses the answer."""
    real = os.link
    for step, error in enumerate((FileExistsError(17, "exists"), OSError(5, "I/O error"))):

        def link(*args: Path, error: FileExistsError | OSError = error, **kwargs: bool) -> Never:
            real(*args, **kwargs)
            raise error

        monkeypatch.setattr("os.link", link)
        save("old", tmp_path, step)
        assert whose(tmp_path, step) == "old"
        assert len([*(tmp_path / f"step-{step}").iterdir()]) == 4


def test_a_delta_whose_base_another_job_removes_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = three_steps(tmp_path)
    real = durable.link

    def link(source: Path, target: Path) -> None:
        (tmp_path / "step-3/model.safetensors.index.json").unlink()
        real(source, target)

    monkeypatch.setattr(durable, "link", link)
    with pytest.raises(
        checkpoint.CheckpointError, match="a delta on step 3, which another job has re"
    ):
        save("old", tmp_path, 4, embedding, since=3)
    assert checkpoint.complete_steps(tmp_path) == [1, 2]


def test_a_step_that_another_job_takes_back_and_restores_meanwhile_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("old", tmp_path, 1)
    step = tmp_path / "step-1"
    save_id = attempts.published(step).save_id
    real, found = durable.remove, []

    def remove(path: Path) -> bool:
        if path.name == f"index-{save_id}.json" and not found:
            found.append(real(path))  # there is none, for the step is complete
            monkeypatch.setattr(durable, "remove", real)
            assert attempts.revoke(step, save_id)
            monkeypatch.setattr(durable, "remove", remove)
            return found[0]
        return real(path)

    monkeypatch.setattr(durable, "remove", remove)
    attempts.bury(step)
    attempts.restore(step, save_id)
    assert found == [False]
    assert checkpoint.complete_steps(tmp_path) == [] or whose(tmp_path, 1) == "old"


def test_a_base_that_another_job_took_back_is_restored_by_the_delta_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = three_steps(tmp_path)
    save_id = attempts.published(tmp_path / "step-3").save_id
    real = durable.link

    def link(source: Path, target: Path) -> None:
        monkeypatch.setattr(durable, "link", real)
        assert attempts.revoke(tmp_path / "step-3", save_id)
        real(source, target)

    monkeypatch.setattr(durable, "link", link)
    save("old", tmp_path, 4, embedding, since=3)
    assert checkpoint.complete_steps(tmp_path) == [1, 2, 3, 4]
    assert whose(tmp_path, 4) == "old"
    assert attempts.revoke(tmp_path / "step-3", save_id)  # and the job that did it died
    save("old", tmp_path, 5, embedding, keep_last=2)
    assert checkpoint.complete_steps(tmp_path) == [3, 4, 5]
    assert whose(tmp_path, 4) == "old"


def chain_and_full_step(run: Path) -> dict[int, Base]:
    """Steps 1 and, as deltas on one another, 2 to 4; then 5, a full one."""
    embedding = FakeEmbedding(TABLES)
    for step in (1, 2, 3, 4, 5):
        save("old", run, step, embedding, since=step - 1 if step in (2, 3, 4) else None)
    found = {step: attempts.published(run / f"step-{step}") for step in (1, 2, 3, 4, 5)}
    return {step: Base(step, index.save_id) for step, index in found.items()}


@pytest.mark.parametrize("dead", [None, 1, 2, 3])
def test_a_base_is_there_with_all_that_it_stands_on_or_not_at_all(
    tmp_path: Path, dead: int | None
) -> None:
    bases = chain_and_full_step(tmp_path)
    for step in (4, 3, 2, 1):
        assert attempts.revoke(tmp_path / f"step-{step}", bases[step].save_id)
    if dead is not None:
        attempts.bury(tmp_path / f"step-{dead}")
    assert attempts.is_there(tmp_path, bases[3]) == (dead is None)
    complete = checkpoint.complete_steps(tmp_path)
    assert complete == ([1, 2, 3, 5] if dead is None else [5])
    for step in complete:
        whose(tmp_path, step)


@pytest.mark.parametrize("restored", [1, 2, 3, 4])
def test_a_step_that_another_job_restores_while_it_is_being_removed_keeps_what_it_stands_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored: int
) -> None:
    bases = chain_and_full_step(tmp_path)
    real, calls = retention.steps_by_state, itertools.count()

    def steps_by_state(directory: Path) -> tuple[list[int], list[int]]:
        if next(calls) == 1:  # the look for deltas after the indexes were taken away
            assert checkpoint.complete_steps(tmp_path) == [5, 6]
            attempts.restore(tmp_path / f"step-{restored}", bases[restored].save_id)
        return real(directory)

    monkeypatch.setattr(retention, "steps_by_state", steps_by_state)
    save("old", tmp_path, 6, keep_last=2)
    complete = checkpoint.complete_steps(tmp_path)
    assert complete == [*range(1, restored + 1), 5, 6]
    for step in complete:
        whose(tmp_path, step)


def test_a_step_whose_ticket_was_left_beside_its_index_can_still_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job died between giving the index its name and removing the first one."""
    save("old", tmp_path, 1)
    save_id = attempts.published(tmp_path / "step-1").save_id
    ticket = attempts.ticket_path(tmp_path / "step-1", save_id)
    durable.link(tmp_path / "step-1/model.safetensors.index.json", ticket)
    assert checkpoint.complete_steps(tmp_path) == [1]
    save("new", tmp_path, 2, keep_last=1)
    assert checkpoint.complete_steps(tmp_path) == [2]
    assert not (tmp_path / "step-1").exists()

"""A run that goes back to an earlier step and trains on: what it gave up does not come back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Never

import pytest
import torch
from checkpoints.checkpoint_fakes import FakeEmbedding, assert_same, random_values, table, whole
from checkpoints.crashes import Killed, deaths
from places import SLOW
from processes.worlds import ThreadGroup, run_processes

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format.steps import INDEX_NAME

TABLES = [table("user", 20), table("item", 5, 2)]
NEW = 1000

pytestmark = pytest.mark.usefixtures("no_syncs")


def save(run: Path, step: int, seed: int | None = None, **options: int) -> FakeEmbedding:
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES, step if seed is None else seed))
    checkpoint.save(embedding, run, step, {"seed": step if seed is None else seed}, **options)
    return embedding


def seed_of(run: Path, step: int | None = None) -> tuple[int, int]:
    """The step that loads, and what it was saved from; all its rows must be that."""
    embedding = FakeEmbedding(TABLES)
    loaded = checkpoint.load(embedding, run, step)
    assert_same(whole([embedding.shard]), random_values(TABLES, loaded.extra["seed"]))
    return loaded.step, loaded.extra["seed"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 100, 110, 120, 200."""
    for step in (100, 110, 120, 200):
        save(tmp_path, step)
    return tmp_path


def test_saving_before_a_complete_step_warns_and_the_remedy_makes_load_take_the_new_one(
    run: Path,
) -> None:
    with pytest.warns(
        UserWarning, match=r"step 105 is saved, but \[110, 120, 200\] are complete too, and"
    ):
        save(run, 105)
    assert seed_of(run) == (200, 200)
    save(run, 106, overwrite=True)
    assert seed_of(run) == (106, 106)
    assert checkpoint.complete_steps(run) == [100, 105, 106]


def test_warnings_point_at_the_line_of_the_caller(run: Path) -> None:
    rows = checkpoint.TableSource({"weight": torch.zeros(3, 2)})
    embedding = FakeEmbedding(TABLES)
    (run / "step-200" / INDEX_NAME).write_text("{}")
    for call, text in (
        (lambda: checkpoint.save(embedding, run, 105), "step 105 is saved, but"),
        (lambda: checkpoint.write_tables(run, 106, {"t": rows}), "step 106 is saved, but"),
        (lambda: checkpoint.load(embedding, run, fall_back=True), "step 200 cannot be loaded"),
    ):
        with pytest.warns(UserWarning, match=text) as found:
            call()
        assert {each.filename for each in found} == {__file__}


def test_a_complete_step_is_replaced_and_all_later_ones_go(run: Path) -> None:
    with pytest.raises(
        FileExistsError, match="step-110: this step is complete already; save another ste"
    ):
        save(run, 110, NEW)
    save(run, 110, NEW, overwrite=True)  # the remedy
    assert seed_of(run) == (110, NEW)
    assert checkpoint.complete_steps(run) == [100, 110]
    assert len([*(run / "step-110").iterdir()]) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(run, 120, NEW + 1)
    assert seed_of(run) == (120, NEW + 1)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_several_processes_replace_a_step(run: Path, asynchronous: bool) -> None:
    def work(group: ThreadGroup) -> None:
        embedding = FakeEmbedding(TABLES, group, values=random_values(TABLES, NEW))
        checkpoint.save(
            embedding,
            run,
            110,
            {"seed": NEW},
            overwrite=True,
            asynchronous=asynchronous,
            timeout=10 * SLOW,
        ).wait()
        assert group.rank or seed_of(run) == (110, NEW)

    run_processes(3, work)
    assert seed_of(run) == (110, NEW)
    assert checkpoint.complete_steps(run) == [100, 110]


def test_processes_that_do_not_agree_on_overwrite_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="overwrite=True on process 1, but False on process 0"):
        run_processes(
            2,
            lambda group: checkpoint.save(
                FakeEmbedding(TABLES, group), tmp_path, 4, overwrite=bool(group.rank)
            ),
        )


def test_a_replacing_save_that_dies_at_any_operation_leaves_the_old_step_or_the_new_one(
    tmp_path: Path,
) -> None:
    seen = set()
    for last in range(10**6):
        run = tmp_path / str(last)
        for step in (1, 2, 3):
            save(run, step)
        survived = False
        with pytest.MonkeyPatch.context() as patch:
            deaths(patch, last)
            try:
                save(run, 2, NEW, overwrite=True, keep_last=2)
                survived = True
            except Killed:
                pass
        assert seed_of(run, 1) == (1, 1)
        seen.add(seed_of(run, 2)[1])
        for step in checkpoint.complete_steps(run):
            seed_of(run, step)
        save(run, 2, NEW + 1, overwrite=True)
        assert seed_of(run) == (2, NEW + 1)
        assert sorted(path.name for path in run.glob("[!.]*")) == ["step-1", "step-2"]
        assert len([*(run / "step-2").iterdir()]) == 4
        if survived:
            break
    assert seen == {2, NEW}


def test_a_failed_replacing_save_leaves_everything_as_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: memoryview) -> Never:
        raise OSError(28, "No space left on device")

    before = sorted(path.name for path in run.rglob("[!.]*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_tpu_embedding.checkpoint.format.durable.write_all", full)
        with pytest.raises(OSError, match="No space left"):
            save(run, 110, NEW, overwrite=True)
        with pytest.raises(OSError, match="No space left"):
            save(run, 130, NEW)
    assert sorted(path.name for path in run.rglob("[!.]*")) == before
    assert seed_of(run) == (200, 200)


def test_a_damaged_later_step_is_named_before_anything_is_written(run: Path) -> None:
    (run / "step-200/model.safetensors.index.json").write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match=r"step-200.*damaged"):
        save(run, 110, NEW, overwrite=True)
    assert seed_of(run, 110) == (110, 110)


def test_deltas_of_the_branch_that_was_given_up_go_and_new_ones_stand_on_the_new_step(
    tmp_path: Path,
) -> None:
    embedding = save(tmp_path, 1)
    for step in (2, 3, 4):
        embedding.shard.train([step])
        checkpoint.save(embedding, tmp_path, step, since=step - 1)
    checkpoint.load(embedding, tmp_path, 2)
    embedding.shard.train([9])
    checkpoint.save(embedding, tmp_path, 3, since=2, overwrite=True)
    assert checkpoint.complete_steps(tmp_path) == [1, 2, 3]
    found = FakeEmbedding(TABLES)
    checkpoint.load(found, tmp_path)
    assert_same(whole([found.shard]), whole([embedding.shard]))


@pytest.mark.parametrize("since", [3, 4])
def test_a_delta_since_no_earlier_step_is_refused_for_it_could_never_be_loaded(
    tmp_path: Path, since: int
) -> None:
    embedding = save(tmp_path, 3)
    checkpoint.save(embedding, tmp_path, 4)
    with pytest.raises(
        ValueError, match=f"since must be a step before 3, the one to be saved, got {since}"
    ):
        checkpoint.save(embedding, tmp_path, 3, since=since, overwrite=True)
    assert checkpoint.complete_steps(tmp_path) == [3, 4]


def test_write_tables_replaces_and_drops_too(run: Path) -> None:
    values = random_values(TABLES, NEW)
    checkpoint.write_tables(run, 110, values, extra={"seed": NEW}, num_shards=2, overwrite=True)
    assert checkpoint.complete_steps(run) == [100, 110]
    with checkpoint.open(run) as reader:
        assert_same({"user": {"weight": reader.read("user", "weight", 0, 20)}},
                    {"user": {"weight": values["user"]["weight"]}})  # fmt: skip

"""Every way a checkpoint can be damaged or not fit: an error that says where and what to do."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.checkpoint_fakes import (
    FakeEmbedding,
    FakeShard,
    assert_same,
    random_values,
    table,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from processes.worlds import ThreadGroup, run_processes

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.format.index import _digest
from torch_tpu_embedding.config.resolved import Table
from torch_tpu_embedding.distributed.group import OutOfStepError
from torch_tpu_embedding.optimizers import SGD, Adagrad, Adam, RowWiseAdagrad

TABLES = [table("user", 20), table("item", 5, 2)]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 1 and 2, complete."""
    for step in (1, 2):
        checkpoint.save(
            FakeEmbedding(TABLES, values=random_values(TABLES, step)), tmp_path, step, {"at": step}
        )
    return tmp_path


def data_file(run: Path, field: str = "weight") -> Path:
    (found,) = (run / "step-2").glob(f"{field}-*.safetensors")
    return found


def load_error(run: Path, **options: object) -> str:
    """The error of a load, which must leave the embedding as it was."""
    embedding = FakeEmbedding(TABLES)
    before = whole([embedding.shard])
    before = {name: {f: v.clone() for f, v in fields.items()} for name, fields in before.items()}
    with pytest.raises((checkpoint.CheckpointError, ValueError)) as caught:
        checkpoint.load(embedding, run, **options)
    assert_same(whole([embedding.shard]), before)
    return str(caught.value)


def edit_index(run: Path, change: Callable[..., Any]) -> None:
    """Change the index of step 2 and sign it anew."""
    path = run / "step-2" / INDEX
    body = json.loads(path.read_text())
    del body["sha256"]
    change(body["checkpoint"])
    path.write_text(json.dumps({**body, "sha256": _digest(body)}))


def test_a_missing_file_is_named_with_the_remedy(run: Path) -> None:
    path = data_file(run)
    path.unlink()
    assert load_error(run) == (
        f"{path}: missing, though the index names it; restore it from a copy, or load another step "
        "(step=…, or fall_back=True)"
    )


def test_a_truncated_file_is_named_with_both_sizes(run: Path) -> None:
    path = data_file(run)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size - 4)
    assert load_error(run, verify=False).startswith(
        f"{path}: torn or truncated, {size - 4} bytes where the index says {size}; restore it"
    )


def test_a_flipped_bit_is_found_and_names_file_and_keys(run: Path) -> None:
    path = data_file(run)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    text = load_error(run)
    assert text.startswith(f"{path}: damaged, its SHA-256 is ")
    assert "(it holds user.weight, item.weight); restore it from a copy" in text


def test_verify_false_does_not_hash(run: Path) -> None:
    path = data_file(run)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert checkpoint.load(FakeEmbedding(TABLES), run, verify=False).step == 2


def test_files_that_are_not_read_are_not_hashed(run: Path) -> None:
    data_file(run, "accumulators").unlink()
    assert checkpoint.load(FakeEmbedding(TABLES), run, slots="skip").step == 2


def test_a_foreign_file_of_the_right_size_is_an_error(run: Path) -> None:
    path = data_file(run)
    path.write_bytes(bytes(path.stat().st_size))
    assert f"{path}: damaged or foreign, its header is not safetensors" in load_error(run)
    other = {"other.weight": torch.zeros(20, 4), "item.weight": torch.zeros(5, 2)}
    from safetensors.torch import save_file

    save_file(other, path)
    edit_index(run, lambda ours: ours["files"][path.name].update(bytes=path.stat().st_size))
    text = load_error(run)
    assert text.startswith(
        f"{path}: foreign, nothing under 'user.weight' where the index says F32 [20, 4]"
    )


def test_a_damaged_extra_file_is_an_error(run: Path) -> None:
    (path,) = (run / "step-2").glob("extra-*.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert load_error(run).startswith(f"{path}: damaged, its SHA-256")
    path.write_bytes(b"no zip")
    assert f"{path}: the extra file cannot be read" in load_error(run, verify=False)


@settings(max_examples=40)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_anywhere_in_the_index_changes_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    values = random_values(TABLES)
    checkpoint.save(FakeEmbedding(TABLES, values=values), run, 0)
    path = run / "step-0" / INDEX
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    embedding = FakeEmbedding(TABLES)
    try:
        checkpoint.load(embedding, run)
    except checkpoint.CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert_same(whole([embedding.shard]), values)


def test_an_index_of_something_else_is_foreign(run: Path) -> None:
    path = run / "step-2" / INDEX
    path.write_text('{"metadata": {}, "weight_map": {}}')
    assert load_error(run) == (
        f"{path}: foreign, an index of format None, not 'torch_tpu_embedding'; give the directory that "
        "checkpoint.save wrote"
    )
    path.write_text('{"metadata": ')
    assert f"{path}: damaged, not readable as JSON" in load_error(run)


def test_a_later_format_version_says_what_to_install(run: Path) -> None:
    edit_index(run, lambda ours: ours.update(version=9))
    assert "format version 9, but this version reads 1; install the version of" in load_error(run)


def test_file_names_cannot_leave_the_directory(run: Path) -> None:
    def escape(ours: dict[str, Any]) -> None:
        ours["files"]["../../secret"] = {"bytes": 1, "sha256": ""}

    edit_index(run, escape)
    assert "file name '../../secret' leaves the directory" in load_error(run)


def test_an_id_that_is_missing_or_twice_is_named(run: Path) -> None:
    def shorten(ours: dict[str, Any]) -> None:
        ours["pieces"] = [piece for piece in ours["pieces"] if piece["key"] != "item.weight"]

    edit_index(run, shorten)
    assert "item.weight: no rows at all" in load_error(run)

    def double(ours: dict[str, Any]) -> None:
        ours["pieces"] += [piece for piece in ours["pieces"] if piece["key"] == "user.weight"]

    edit_index(run, double)
    assert "user.weight: id 0 is there twice" in load_error(run)


def test_a_renamed_step_directory_is_noticed(run: Path) -> None:
    shutil.copytree(run / "step-2", run / "step-3")
    assert "it is the index of step 2; rename the directory back" in load_error(run)


def test_a_step_that_is_not_there_is_an_error_with_those_that_are(
    run: Path, tmp_path: Path
) -> None:
    (run / "step-7").mkdir()
    assert load_error(run, step=7) == (
        f"{run}: no complete step 7 (complete are [1, 2], begun but never finished [7]); check the "
        "directory and the step"
    )
    assert "no checkpoint to load (no step is complete)" in load_error(tmp_path / "nowhere")


def test_fall_back_takes_the_older_step_and_warns(run: Path) -> None:
    data_file(run).unlink()
    embedding = FakeEmbedding(TABLES)
    with pytest.warns(UserWarning, match="step 2 cannot be loaded, step 1 is tried: .*missing"):
        loaded = checkpoint.load(embedding, run, fall_back=True)
    assert (loaded.step, loaded.extra) == (1, {"at": 1})
    assert_same(whole([embedding.shard]), random_values(TABLES, 1))
    (run / "step-1" / INDEX).write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert f"{run / 'step-1' / INDEX}: damaged" in load_error(run, fall_back=True)


def test_fall_back_does_not_hide_that_tables_do_not_fit(run: Path) -> None:
    embedding = FakeEmbedding([table("user", 20), table("item", 5, 3)])
    with pytest.raises(ValueError, match="'item': dim 2 in the checkpoint, 3 in the embedding"):
        checkpoint.load(embedding, run, fall_back=True)


def test_damage_seen_by_one_process_is_an_error_on_all_and_all_fall_back(run: Path) -> None:
    data = data_file(run)
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    seen = []

    def work(group: ThreadGroup) -> FakeShard:
        embedding = FakeEmbedding(TABLES, group)
        try:
            checkpoint.load(embedding, run)
        except Exception as error:
            seen.append(type(error).__name__)
        assert not any(rows.any() for fields in embedding.shard.held for rows in fields.values())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert checkpoint.load(embedding, run, fall_back=True).step == 1
        return embedding.shard

    shards = run_processes(3, work)
    assert sorted(seen) == ["CheckpointError", "PeerError", "PeerError"]
    assert_same(whole(shards), random_values(TABLES, 1))


def test_another_optimizers_slots_are_an_error_that_names_both(run: Path) -> None:
    for rule, mine in ((Adam(), "momenta of width 4, velocities of width 4"), (SGD(), "none"),
                       (RowWiseAdagrad(), "accumulators of width 1")):  # fmt: skip
        tables = [table("user", 20, 4, rule), table("item", 5, 2)]
        embedding = FakeEmbedding(tables)
        text = (
            "table 'user': saved with Adagrad (slots accumulators of width 4), but the embedding has "
            f"{type(rule).__name__} (slots {mine}); pass slots='skip' for the weights alone"
        )
        with pytest.raises(ValueError, match=re.escape(text)):
            checkpoint.load(embedding, run)
        checkpoint.load(embedding, run, slots="skip")
        wanted = random_values(TABLES, 2)
        found = whole([embedding.shard])
        assert_same(found, {"user": {"weight": wanted["user"]["weight"]}})
        assert not found["item"]["accumulators"].any()


def test_slots_match_loads_those_that_both_have(run: Path) -> None:
    tables = [table("user", 20, 4, Adam()), table("item", 5, 2)]
    embedding = FakeEmbedding(tables)
    checkpoint.load(embedding, run, slots="match")
    wanted = random_values(TABLES, 2)
    found = whole([embedding.shard])
    assert_same(found, {"user": {"weight": wanted["user"]["weight"]}, "item": wanted["item"]})
    assert not found["user"]["momenta"].any()


def test_a_vocabulary_of_another_size_loads_by_explicit_choice_only(run: Path) -> None:
    wanted = random_values(TABLES, 2)
    for rows in (13, 29):
        tables = [table("user", rows), table("item", 5, 2)]
        start = random_values(tables, 9)
        with pytest.raises(
            ValueError, match=f"vocabulary_size 20 in the checkpoint, {rows} in the embed"
        ):
            checkpoint.load(FakeEmbedding(tables), run)

        def work(
            group: ThreadGroup,
            tables: list[Table] = tables,
            start: dict[str, dict[str, torch.Tensor]] = start,
        ) -> FakeShard:
            embedding = FakeEmbedding(tables, group, "div", start)
            checkpoint.load(embedding, run, resize="allow")
            return embedding.shard

        found = whole(run_processes(3, work))["user"]
        for field, values in found.items():
            both = min(rows, 20)
            assert_same({"": {"": values[:both]}}, {"": {"": wanted["user"][field][:both]}})
            assert_same({"": {"": values[both:]}}, {"": {"": start["user"][field][both:]}})


def test_a_subset_and_renamed_tables(run: Path) -> None:
    wanted = random_values(TABLES, 2)
    embedding = FakeEmbedding([table("member", 20), table("item", 5, 2)])
    with pytest.raises(ValueError) as caught:
        checkpoint.load(embedding, run)
    assert "table 'member' is not in step 2, which holds ['item', 'user']" in str(caught.value)
    assert "step 2 holds tables ['user'] that the embedding has not" in str(caught.value)
    checkpoint.load(embedding, run, rename={"user": "member"}, tables=["member"])
    found = whole([embedding.shard])
    assert_same(found, {"member": wanted["user"]})
    assert not found["item"]["weight"].any()
    checkpoint.load(embedding, run, rename={"user": "member"})
    assert_same(whole([embedding.shard]), {"member": wanted["user"], "item": wanted["item"]})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rename": {"nobody": "x"}}, r"rename: step 2 holds no tables \['nobody'\]"),
        ({"rename": {"user": "item"}}, "rename: two tables of step 2 would have one name"),
        ({"tables": ["nobody"]}, r"tables: the embedding holds no \['nobody'\]; it holds"),
        ({"slots": "all"}, r"slots must be one of \('require', 'skip', 'match'\), got 'all'"),
        ({"resize": True}, r"resize must be one of \('error', 'allow'\), got True"),
        ({"step": -1}, "step must be an int of at least 0, got -1"),
    ],
)
def test_wrong_arguments_of_load(run: Path, options: dict[str, Any], text: str) -> None:
    assert re.search(text, load_error(run, **options))


@pytest.mark.parametrize(
    ("step", "options", "text"),
    [
        (-1, {}, "step must be an int of at least 0, got -1"),
        ("1", {}, "step must be an int of at least 0, got '1'"),
        (3, {"keep_last": 0}, "keep_last must be an int of at least 1, got 0"),
        (3, {"max_file_bytes": 0.5}, "max_file_bytes must be an int of at least 1, got 0.5"),
        (3, {"extra": {"f": Path("x")}}, "extra must hold tensors, numbers, strings"),
    ],
)
def test_wrong_arguments_of_save(
    run: Path, step: str | int, options: dict[str, dict[str, Path] | float], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        checkpoint.save(FakeEmbedding(TABLES), run, step, **options)
    assert checkpoint.complete_steps(run) == [1, 2]


def test_a_complete_step_is_not_overwritten(run: Path) -> None:
    with pytest.raises(
        FileExistsError, match="step-2: this step is complete already; save another"
    ):
        checkpoint.save(FakeEmbedding(TABLES), run, 2)
    with pytest.raises(FileExistsError, match="step-2: this step is complete already"):
        checkpoint.write_tables(run, 2, {"t": {"weight": torch.zeros(2, 2)}})
    embedding = FakeEmbedding(TABLES)
    checkpoint.load(embedding, run)
    assert_same(whole([embedding.shard]), random_values(TABLES, 2))


def test_processes_that_save_different_steps_are_told(tmp_path: Path) -> None:
    with pytest.raises(OutOfStepError, match=r"checkpoint\.save of step 4', '.* of step 5'"):
        run_processes(
            2,
            lambda group: checkpoint.save(
                FakeEmbedding([table("user", 4, 2, Adagrad())], group), tmp_path, 4 + group.rank
            ),
        )


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        checkpoint.save(FakeEmbedding(TABLES), tmp_path / "file", 0)

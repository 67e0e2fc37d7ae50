"""`--overwrite` of the commands that write a step: the remedy that their refusal names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkpoints.checkpoint_fakes import (
    FakeEmbedding,
    assert_same,
    random_values,
    read_independently,
    table,
)

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.__main__ import main

TABLES = [table("user", 20), table("item", 5, 2)]


def save(run: Path, *steps: int) -> None:
    for step in steps:
        embedding = FakeEmbedding(TABLES, values=random_values(TABLES, step))
        checkpoint.save(embedding, run, step, {"position": step})


def remedy_in(text: str) -> str:
    """The option that a message of the command names."""
    found = re.search(r"pass overwrite=True \((--\w+) of `python -m torch_tpu_embedding\.", text)
    assert found, text
    return found[1]


def test_reshard_refuses_a_step_that_is_complete_and_its_remedy_replaces_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    save(run, 2)
    save(out, 1)
    save(out, 2, 3)
    command = ["reshard", str(run), str(out), "--shards", "3"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "step-2: this step is complete already" in said
    assert checkpoint.complete_steps(out) == [1, 2, 3], "nothing was changed"
    assert main([*command, remedy_in(said)]) == 0
    assert checkpoint.complete_steps(out) == [1, 2], "later ones are dropped"
    with checkpoint.open(out) as reader:
        assert reader.index.num_shards == 3
    assert_same(read_independently(out / "step-2"), random_values(TABLES, 2))


def test_reshard_replaces_the_step_that_it_reads(tmp_path: Path) -> None:
    save(tmp_path, 1)
    run = str(tmp_path)
    assert main(["reshard", run, run, "--shards", "2", "--strategy", "div", "--overwrite"]) == 0
    with checkpoint.open(tmp_path) as reader:
        assert (reader.index.num_shards, reader.extra()) == (2, {"position": 1})
    assert_same(read_independently(tmp_path / "step-1"), random_values(TABLES, 1))


def test_a_step_before_complete_ones_is_a_warning_whose_remedy_drops_them(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    save(run, 1)
    save(out, 4)
    command = ["reshard", str(run), str(out), "--shards", "2"]
    with pytest.warns(UserWarning, match=r"\[4\] are complete too") as caught:
        assert main(command) == 0
    assert main([*command, remedy_in(str(caught[0].message))]) == 0
    assert checkpoint.complete_steps(out) == [1]


def test_from_tensorflow_refuses_a_step_that_is_complete_and_its_remedy_replaces_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, theirs = tmp_path / "run", tmp_path / "out", str(tmp_path / "tf" / "ckpt")
    save(run, 7)
    save(out, 1)
    save(out, 2, 3)
    assert main(["to-tensorflow", str(run), theirs]) == 0
    command = ["from-tensorflow", theirs, str(out), "--step", "2", "--shards", "3"]
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "step-2: this step is complete already" in said
    assert checkpoint.complete_steps(out) == [1, 2, 3], "nothing was changed"
    assert_same(read_independently(out / "step-2"), random_values(TABLES, 2))
    assert main([*command, remedy_in(said)]) == 0
    assert checkpoint.complete_steps(out) == [1, 2], "later ones are dropped"
    with checkpoint.open(out) as reader:
        assert reader.index.num_shards == 3
    assert_same(read_independently(out / "step-2"), random_values(TABLES, 7))


def test_from_tensorflow_before_complete_steps_is_a_warning_whose_remedy_drops_them(
    tmp_path: Path,
) -> None:
    run, out, theirs = tmp_path / "run", tmp_path / "out", str(tmp_path / "tf" / "ckpt")
    save(run, 7)
    save(out, 4)
    assert main(["to-tensorflow", str(run), theirs]) == 0
    command = ["from-tensorflow", theirs, str(out), "--step", "1"]
    with pytest.warns(UserWarning, match=r"\[4\] are complete too") as caught:
        assert main(command) == 0
    assert checkpoint.complete_steps(out) == [1, 4]
    assert main([*command, remedy_in(str(caught[0].message))]) == 0
    assert checkpoint.complete_steps(out) == [1]


def test_a_conversion_that_fails_leaves_the_step_that_it_was_to_replace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, theirs = tmp_path / "run", tmp_path / "out", tmp_path / "tf" / "ckpt"
    save(run, 7)
    save(out, 2, 3)
    assert main(["to-tensorflow", str(run), str(theirs)]) == 0
    data = theirs.with_name("ckpt.data-00000-of-00001")
    first, *others = data.read_bytes()
    data.write_bytes(bytes([first ^ 1, *others]))
    command = ["from-tensorflow", str(theirs), str(out), "--step", "2", "--overwrite"]
    assert main(command) == 2
    assert "damaged" in capsys.readouterr().err
    assert checkpoint.complete_steps(out) == [2, 3]
    assert_same(read_independently(out / "step-2"), random_values(TABLES, 2))

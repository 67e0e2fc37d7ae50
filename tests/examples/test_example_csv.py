"""The example that trains on a CSV file of one's own: columns, missing values, a resumed run, errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import train_csv
from dlrm.report import auc_or_none
from hypothesis import given
from hypothesis import strategies as st


def run(*options: object) -> int:
    return train_csv.main([*map(str, options)])


def write(path: Path, delimiter: str = ",", samples: int = 1_200) -> Path:
    """A click for each user with an even number, however the columns are called."""
    draw = np.random.default_rng(0)
    lines = [["who", "tags", "age", "clicked"]]
    for _ in range(samples):
        user = int(draw.integers(40))
        tags = " ".join(map(str, draw.integers(9, size=draw.integers(3))))
        lines.append([f"u{user}", tags, "" if user % 7 == 0 else str(user), str(1 - user % 2)])
    path.write_text("\n".join(delimiter.join(line) for line in lines) + "\n")
    return path


def options(data: Path, run: Path) -> list[object]:
    columns = ["--label", "clicked", "--ids", "who", "--bags", "tags", "--numbers", "age"]
    return ["--data", data, "--run", run, "--batch-size", 64, "--dim", 8, *columns]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_file_is_learned_and_a_run_that_was_stopped_ends_as_one_that_was_not(
    delimiter: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write(tmp_path / "clicks", delimiter)
    run(*options(data, tmp_path / "whole"), "--epochs", 3)
    whole = capsys.readouterr().out.splitlines()
    assert f"{data}: 960 samples to train, 240 held out" in whole
    assert float(whole[-1].split()[-1]) > 0.95, "its AUC"
    for epochs in (2, 3):
        run(*options(data, tmp_path / "stopped"), "--epochs", epochs)
    stopped = capsys.readouterr().out.splitlines()
    assert stopped[-2].startswith(f"{tmp_path / 'stopped'}: goes on behind epoch 1, AUC ")
    assert stopped[-1] == whole[-1]


def test_ids_are_those_of_the_training_part_and_rare_ones_share_a_row() -> None:
    texts = ["a b", "", *["b"] * 4, "c " * 9, "d"]
    column = train_csv.Column(texts, train=6)
    assert column.rows == 2, "b alone is there five times"
    assert column.ids[:3] == [[0, 1], [], [1]]
    assert column.ids[-2] == [0] * 9, "c comes after the training part"
    bags = column.batch(np.array([0, 1, 5]))
    assert bags.values.tolist() == [0, 1, 1]
    assert bags.row_splits.tolist() == [0, 2, 2, 3]


def test_a_number_that_is_missing_is_the_mean_and_said(tmp_path: Path) -> None:
    data = tmp_path / "clicks.csv"
    data.write_text("age,click\n1,0\n,1\n3,1\n1000,0\n")
    _, values, train = train_csv.read(data, "click", [], [], ["age"], 0.25)
    assert train == 3
    np.testing.assert_allclose(values[:3], [[0, -1, 1], [1, 0, 0], [1, 1, 1]], rtol=1e-6)
    assert values[3, 1] == pytest.approx(998), "the scale is that of the training part"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--label", "click"],
            r"has no columns \['click'\]; it has \['who', 'tags', 'age', 'clicked'\]",
        ),
        (
            ["--ids", "who", "tags", "--bags"],
            r"line \d+: column 'tags' has not one id; is it one of --bags\?",
        ),
    ],
)
def test_columns_that_do_not_fit_are_named(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "clicks.csv")
    assert run(*options(data, tmp_path / "run"), *change) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_its_auc_is_that_of_the_dlrm(samples: list[tuple[bool, int]]) -> None:
    labels, scores = (np.array(each, dtype=np.float32) for each in zip(*samples, strict=True))
    wanted = auc_or_none(labels, scores)
    if wanted is not None:
        assert train_csv.auc(labels, scores) == pytest.approx(wanted)


def test_a_file_is_made_up_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("--epochs", 1)
    assert float(capsys.readouterr().out.split()[-1]) > 0.8, "docs/own_data.md: 0.8233"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_line_ends_and_byte_order_marks_change_nothing(
    encoding: str, end: str, tmp_path: Path
) -> None:
    data = tmp_path / "clicks.csv"
    lines = ['"user","tags",click', '"a, b","x\ny",1', "", "c,,0"]
    data.write_bytes(end.join(lines).encode(encoding))
    columns, values, _ = train_csv.read(data, "click", [], ["user", "tags"], [], 0.5)
    assert columns["user"].bags == [["a,", "b"], ["c"]]
    assert columns["tags"].bags == [["x", "y"], []]
    assert values.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no columns \['age', 'click', 'user'\]; it has \[\]"),
        ("user,age,click\n", "0 samples to train, 0 held out.*--batch-size"),
        ("user,age,click\na,1,1\nb,2,0\n", "1 samples to train, 1 held out.*--batch-size"),
        ("user,age,click\na,1,1\n\nb,2,\n", "line 4: column 'click': '' is no number"),
        ('user,age,click\n"a\n",1,nan\n', "line 3: column 'click': 'nan' is no number"),
        ("user,age,click\na,inf,1\n", "line 2: column 'age': 'inf' is no number"),
        ("user,age,click\na,old,1\n", "line 2: column 'age': 'old' is no number"),
        ("user,age,click\na,1,2\n", "line 2: the label 'click' is neither 0 nor 1"),
        ("user,age,click\na,1\n", r"line 2 ends before its columns \['click'\]"),
        ("user,age,click\na,1,0,5\n", "line 2 has more columns than the header"),
        ("user,age,click\n\xe4,1,0\n", "can't decode byte 0xe4.*; save it as UTF-8"),
    ],
)
def test_files_that_cannot_be_learned_are_refused_with_their_line(
    text: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, columns = tmp_path / "clicks.csv", ["--ids", "user", "--bags", "--numbers", "age"]
    data.write_bytes(text.encode("latin-1"))
    assert run("--data", data, "--run", tmp_path / "run", "--held-out", 0.5, *columns) == 2
    shown = "".join(capsys.readouterr()).replace("\n", " ")
    assert re.search(message, shown), shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--ids", "--bags"], "name at least one column of ids"),
        (["--held-out", 1], "give a share between 0 and 1, not 1.0"),
        (["--held-out", 0], "give a share between 0 and 1, not 0.0"),
    ],
)
def test_options_that_leave_nothing_to_learn_are_refused(
    change: list[object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "clicks.csv")
    assert run(*options(data, tmp_path / "run"), *change) == 2
    assert message in capsys.readouterr().err


def test_a_number_that_the_training_part_never_has_is_taken_as_it_is(tmp_path: Path) -> None:
    data = tmp_path / "clicks.csv"
    data.write_text("age,click\n,0\n,1\n3,1\n")
    _, values, _ = train_csv.read(data, "click", [], [], ["age"], 0.4)
    assert values[2].tolist() == [1, 3, 1]


def test_there_is_no_auc_where_all_labels_are_the_same() -> None:
    assert np.isnan(train_csv.auc(np.ones(3), np.arange(3.0)))

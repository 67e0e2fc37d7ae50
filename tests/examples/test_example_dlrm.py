"""The DLRM example: its data, its metric, and short runs of the whole program."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import train_dlrm
import train_movielens
from common.background import TrainingOrder
from common.command_line import check_outputs
from common.processes import own_share
from dlrm import data
from dlrm.data import ClickLog, hash_ids, read_criteo, synthetic
from dlrm.model import Trainer
from dlrm.report import auc
from models.small_data import OPTIONS, few_columns, small_synthetic
from places import EXAMPLES, SLOW, SUPPORT, python_path
from processes.launch import forked_python

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.distributed import api as distributed_api

HEADER = ",".join(data.FIELDS)
ROWS = [
    ["1", "3", "-2", *["7"] * 11, "05db9164", "", *["1"] * 24],
    ["0", "", "260.0", *[""] * 11, "05DB9164", "ffffffff", *["2"] * 24],
    ["1", "0", "1", *["0"] * 11, "00000002", "", *["3"] * 24],
    ["0", "9", "1", *["0"] * 11, "00000003", "a", *["1"] * 24],
]


def text(rows: list[list[str]], separator: str = "\t") -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


# -- metric ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_ordered_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = rng.integers(0, 8, 60) / 4  # many ties
    above = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    assert auc(labels, scores) == pytest.approx(
        np.mean((above > 0) + 0.5 * (above == 0)), abs=1e-12
    )


def test_auc_without_both_classes_is_nan() -> None:
    assert np.isnan(auc(np.ones(3), np.arange(3)))


# -- Criteo files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tsv", "tsv with CRLF", "csv with header", "tsv.gz", "csv.gz"])
def test_every_form_of_a_file_reads_alike(tmp_path: Path, kind: str) -> None:
    content = text(ROWS, "\t" if "tsv" in kind else ",")
    if "csv" in kind:
        content = HEADER + "\n" + content
    if "CRLF" in kind:
        content = content.replace("\n", "\r\n")
    path = tmp_path / ("log.gz" if "gz" in kind else "log.txt")
    data = content.encode()
    path.write_bytes(gzip.compress(data) if "gz" in kind else data)

    log = read_criteo(path, vocabulary=50, held_out=0.25)

    assert (len(log), log.train_rows) == (4, 3)
    np.testing.assert_array_equal(log.labels, [1, 0, 1, 0])
    # Empty and negative numbers count as 0.
    np.testing.assert_allclose(log.dense[:2, :3], np.log([[4, 1, 8], [1, 261, 1]]), rtol=1e-6)
    first, second = log.ids[0].values, log.ids[1].values
    assert first[0] == first[1] == hash_ids(np.array([[0x05DB9164]]), 50)[0, 0]
    assert second[0] == second[2] == 0  # empty
    assert second[1] != 0
    assert [column.vocabulary for column in log.columns] == [50] * 26


def test_limit_reads_the_first_samples_only(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text(ROWS[:2]) + "rubbish that is never reached\n")
    assert len(read_criteo(path, limit=2)) == 2


def test_index_numbers_the_training_part(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text(ROWS))
    log = read_criteo(path, categories="index", held_out=0.25)
    np.testing.assert_array_equal(log.ids[0].values, [1, 1, 2, 0])  # the last is held out, unseen
    np.testing.assert_array_equal(log.ids[2].values, [1, 2, 3, 1])
    assert [column.vocabulary for column in log.columns[:3]] == [3, 2, 4]

    small = read_criteo(path, categories="index", vocabulary=3, held_out=0.25)
    np.testing.assert_array_equal(small.ids[2].values, [1, 2, 0, 1])  # no room for the third
    assert small.columns[2].vocabulary == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text([ROWS[0], ["2", *ROWS[1][1:]]]), r"line 2, column label: '2' is not 0 or 1"),
        (text([["1", "x1", *ROWS[0][2:]]]), r"line 1, column I1: 'x1' is not a number or empty"),
        (
            HEADER + "\n" + text([[*ROWS[0][:-1], "zz"]], ","),
            r"line 2, column C26: 'zz' is not up to 8 hexadecimal digits or empty; mend or delete",
        ),
        (text([ROWS[0], ROWS[1][1:]]), r"line 2: 39 fields where .* are 40; .*not test\.txt"),
        ("id,clicked\n1,0\n", r"line 1: 2 fields where"),
        (HEADER.replace("label", "click") + "\n", r"column label: 'click' .* label,I1\.\.I13"),
        (HEADER + "\n", r"holds no samples"),
        ("", r"holds no samples"),
    ],
)
def test_a_malformed_file_says_where(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "log.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_criteo(path)
    assert str(path) in str(error.value)


def test_a_truncated_gzip_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(text(ROWS * 100).encode())[:-20])
    with pytest.raises(ValueError, match=r"log\.gz is not a whole gzip file"):
        read_criteo(path)


def test_hashing_never_changes() -> None:
    values = np.array([[0, 1, 0xFFFFFFFF, -1], [0x05DB9164, 1, 2, -1]])
    expected = [[11258, 77462, 11732, 0], [67526, 77462, 26677, 0]]  # by hand, not by this function
    np.testing.assert_array_equal(hash_ids(values, 100_000), expected)
    many = hash_ids(np.arange(30_000)[:, None], 101)
    assert np.bincount(many[:, 0], minlength=101)[0] == 0  # id 0 is for empty fields
    assert np.bincount(many[:, 0], minlength=101)[1:].min() > 200  # and the others are even


# -- the synthetic log -----------------------------------------------------------------------------


def test_synthetic_log_depends_on_its_seed_only() -> None:
    one, same, other = (synthetic(2000, scale=0.01, seed=seed) for seed in (3, 3, 4))
    for log, equal in ((same, True), (other, False)):
        assert np.array_equal(one.labels, log.labels) is equal
        assert np.array_equal(one.dense, log.dense) is equal
        assert np.array_equal(one.ids[0].values, log.ids[0].values) is equal


def test_dense_features_cannot_find_the_planted_signal() -> None:
    log = synthetic(20_000)
    assert log.oracle is not None
    assert {column.combiner for column in log.columns if column.multi_hot} == {
        "mean",
        "sum",
        "sqrtn",
    }
    assert sum(column.weighted for column in log.columns) == 1
    for column, ids in zip(log.columns, log.ids, strict=True):
        assert 0 <= ids.values.min() <= ids.values.max() < column.vocabulary <= 100_000
    inputs = np.column_stack([log.dense, log.dense**2, np.ones(len(log))])
    fitted = inputs @ np.linalg.lstsq(inputs, log.labels, rcond=None)[0]
    assert 0.58 < auc(log.labels, fitted) < 0.68
    assert auc(log.labels, log.oracle) > 0.83


def test_a_batch_holds_the_rows_asked_for() -> None:
    log = synthetic(300, scale=0.01)
    rows = np.array([7, 299, 0, 7])
    batch = log.batch(rows, np.array([1, 2, 0.5, 0], np.float32))
    np.testing.assert_array_equal(batch.numbers[:, 0], log.labels[rows])
    np.testing.assert_array_equal(batch.numbers[:, 1], [1, 2, 0.5, 0])
    np.testing.assert_array_equal(batch.numbers[:, 2:], log.dense[rows])
    for column, ids in zip(log.columns, log.ids, strict=True):
        cut, weights = batch.features[column.name], batch.weights[column.name]
        if ids.row_splits is None:
            assert isinstance(cut, torch.Tensor)
            np.testing.assert_array_equal(cut, ids.values[rows])
            continue
        assert isinstance(cut, tte.Ragged)
        assert (weights is not None) == column.weighted
        for b, r in enumerate(rows):
            ours = slice(*cut.row_splits[b : b + 2].tolist())
            theirs = slice(*ids.row_splits[r : r + 2]) if b < 3 else slice(0)  # none for a filler
            np.testing.assert_array_equal(cut.values[ours], ids.values[theirs])
            if weights is not None and ids.weights is not None:
                np.testing.assert_array_equal(weights.values[ours], ids.weights[theirs])


def test_training_order_covers_epochs_and_resumes() -> None:
    order = TrainingOrder(rows=10, batch_size=3, seed=1)
    batches = [next(order) for _ in range(7)]
    assert [len(batch) for batch in batches] == [3, 3, 3, 1, 3, 3, 3]
    assert sorted(np.concatenate(batches[:4]).tolist()) == list(range(10))  # each row once an epoch
    assert not np.array_equal(batches[0], batches[4])
    resumed = TrainingOrder(rows=10, batch_size=3, seed=1)
    resumed.load_state_dict(order.state_dict())
    np.testing.assert_array_equal(next(resumed), next(order))


@pytest.mark.parametrize("count", [64, 63, 1])
def test_shares_of_processes_hold_every_sample_once_and_weigh_to_the_mean(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(100, 100 + count)
    monkeypatch.setattr(distributed_api, "world_size", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(distributed_api, "rank", lambda rank=rank: rank)
        shares.append(own_share(rows, 64))
    own, weights = (np.concatenate(each) for each in zip(*shares, strict=True))
    assert {len(share) for share, _ in shares} == {16}
    assert own[weights > 0].tolist() == rows.tolist()
    assert np.mean(own * weights) == pytest.approx(rows.mean())


# -- the program -----------------------------------------------------------------------------------


def small_criteo(path: Path, **options: Any) -> ClickLog:
    return few_columns(read_criteo(path, **options))


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(train_dlrm, "synthetic", small_synthetic)
    monkeypatch.setattr(train_dlrm, "read_criteo", small_criteo)
    yield
    torch.set_num_threads(threads)


def run(*options: str | Path) -> int:
    return train_dlrm.main([*OPTIONS.split(), *map(str, options)])


@pytest.mark.usefixtures("program")
def test_a_run_beats_the_dense_model_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fallbacks = tte.runtime.cpu_fallbacks()
    assert run("--plot", tmp_path / "new" / "curves.png", "--json", tmp_path / "results.json") == 0

    results = json.loads((tmp_path / "results.json").read_text())
    found = results["results"]
    assert found["auc"] > found["dense_only_auc"] + 0.01
    assert found["auc"] < found["best_possible_auc"]
    assert found["compiles_after_warm_up"] == 0
    assert tte.runtime.cpu_fallbacks() == fallbacks
    assert len(results["history"]["loss"]) == found["steps"] == 57
    assert [each["step"] for each in results["history"]["evaluations"]] == [0, 30, 57]
    output = capsys.readouterr().out
    assert f"held-out AUC                      {found['auc']:.4f}\n" in output
    assert f"dense-only AUC                    {found['dense_only_auc']:.4f}\n" in output
    assert "compiles after warm-up                 0\n" in output
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    "option",
    ["--optimizer sgd", "--optimizer adam", "--tables bfloat16", "--tables bfloat16-nearest"],
)
def test_other_optimizers_and_tables_learn_and_do_not_recompile(
    tmp_path: Path, option: str
) -> None:
    results = tmp_path / "results.json"
    assert run(*option.split(), "--steps", "25", "--no-baseline", "--json", results) == 0
    found = json.loads(results.read_text())["results"]
    assert found["compiles_after_warm_up"] == 0
    assert found["log_loss"] < 0.69
    assert "dense_only_auc" not in found


@pytest.mark.usefixtures("program")
def test_a_resumed_run_repeats_the_uninterrupted_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed, saved = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "saved"
    options = ["--steps", "65", "--no-baseline"]  # an epoch has 57
    assert run(*options, "--json", whole) == 0

    def interrupted(trainer: Trainer) -> torch.Tensor:
        if trainer.step == 46:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer)

    advance = Trainer.advance
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", interrupted)
        assert run(*options, "--checkpoint", saved, "--checkpoint-every", "20") == 130
    assert run(*options, "--checkpoint", saved, "--json", resumed) == 0
    assert "resumed at step 47" in capsys.readouterr().out
    one, two = (json.loads(path.read_text())["history"] for path in (whole, resumed))
    assert one == two


@pytest.mark.usefixtures("program")
def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--steps", "1", "--checkpoint", tmp_path) == 0
    assert run("--steps", "1", "--checkpoint", tmp_path, "--lr", "0.5") == 2
    expected = f"cannot resume from {tmp_path}: it was written with lr = 0.1, this run has 0.5; use"
    assert expected in capsys.readouterr().err
    (tmp_path / "step-1" / "model.safetensors.index.json").write_bytes(b"torn")
    assert run("--steps", "1", "--checkpoint", tmp_path) == 2
    error = capsys.readouterr().err
    assert f"cannot resume from {tmp_path}: " in error
    assert "model.safetensors.index.json" in error


@pytest.mark.usefixtures("program")
def test_a_criteo_file_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 6, (1000, 26))
    clicks = rng.random(1000) < np.where(ids[:, 5] < 3, 0.1, 0.9)  # C6 decides
    numbers = [str(number) for number in rng.integers(0, 9, 13)]
    rows = [
        [str(int(click)), *numbers, *map("{:08x}".format, row)]
        for click, row in zip(clicks, ids, strict=True)
    ]
    path, results = tmp_path / "train.txt", tmp_path / "results.json"
    path.write_text(text(rows))
    assert run("--data", path, "--categories", "index", "--epochs", "3", "--json", results) == 0
    found = json.loads(results.read_text())["results"]
    assert found["auc"] > 0.8
    assert found["dense_only_auc"] == 0.5  # its inputs are constant
    assert "best_possible_auc" not in found
    assert "DLRM on train.txt: 1,000 samples, 4 tables with 28 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data nowhere.txt", "--data nowhere.txt is no file; give the path"),
        ("--samples 50", "50 samples make 45 for training and 5 held out"),
    ],
)
def test_impossible_options_say_why(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("program", [train_dlrm, train_movielens])
@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("--json", ".", "cannot be written: Is a directory; give the path of a file"),
        ("--json", "log.txt/results.json", "cannot be written: "),
        ("--plot", "log.txt/curves.png", "cannot be written: "),
        ("--plot", "curves.bmp2", "does not name a picture; let it end with .png"),
        ("--plot", "curves", "does not name a picture; let it end with .png"),
    ],
)
def test_results_that_cannot_be_written_are_refused_before_anything_is_read(
    program: ModuleType,
    option: str,
    name: str,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "log.txt").touch()
    assert program.main(["--data", str(tmp_path / "nowhere"), option, str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert f"{option} {tmp_path / name} {reason}" in error
    assert "nowhere" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


def test_checking_results_leaves_no_file_and_keeps_an_old_one(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("{}")
    check_outputs(plot=tmp_path / "new" / "curves.png", results=old)
    assert old.read_text() == "{}"
    assert [*(tmp_path / "new").iterdir()] == []


def test_ctrl_c_saves_and_exits_130(tmp_path: Path) -> None:
    script = (
        "import sys, train_dlrm; from models.small_data import small_synthetic; "
        "train_dlrm.synthetic = small_synthetic; "
        "sys.exit(train_dlrm.main(sys.argv[1:]))"
    )
    paths = python_path(EXAMPLES, EXAMPLES.parent, SUPPORT)
    options = f"{OPTIONS} --epochs 1000 --eval-every 10 --no-baseline --checkpoint".split()
    process = subprocess.Popen(
        [forked_python(), "-u", "-c", script, *options, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step      10"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30 * SLOW)
    assert process.returncode == 130, errors
    (step,) = checkpoint.complete_steps(tmp_path)
    with checkpoint.open(tmp_path) as saved:
        state = saved.extra()
    assert state["step"] == step == len(state["history"]["loss"]) >= 10
    assert f"stopped after step {step}: saved in {tmp_path}" in errors
    assert [path.name for path in tmp_path.glob("[!.]*")] == [f"step-{step}"]

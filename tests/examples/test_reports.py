"""The tables and plots of examples and scripts where there is little to tell."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dlrm import data
from dlrm.report import _mean_of, auc_or_none, plot, result_table
from places import ROOT, SCRIPTS

LINE = "\t".join(["1", *["5"] * 13, *["0a"] * 26])


def read(path: Path, text: str) -> int:
    path.write_text(text)
    return len(data.read_criteo(path, vocabulary=100))


def test_an_empty_last_line_of_a_file_is_no_sample(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", f"{LINE}\n{LINE}\n\n") == 2


def test_an_empty_line_before_others_is_an_error_that_says_where(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2: 1 fields where"):
        read(tmp_path / "a.tsv", f"{LINE}\n\n{LINE}\n")


def test_an_auc_of_equal_labels_is_null_in_words_and_not_drawn(tmp_path: Path) -> None:
    area = auc_or_none(np.ones(3), np.arange(3))
    results: dict[str, Any] = {"log_loss": 0.5, "auc": area}
    assert json.loads(json.dumps(results))["auc"] is None
    assert "held-out AUC" in result_table(results)
    assert "not defined" in result_table(results)
    evaluations = [{"step": 1, **results}]
    plot(tmp_path / "a.png", "title", {"loss": [0.5], "evaluations": evaluations})
    assert (tmp_path / "a.png").stat().st_size > 0


def test_a_curve_of_few_steps_is_no_mean() -> None:
    assert _mean_of(1) == "training"
    assert _mean_of(5) == "training, mean of 5 steps"


def test_soak_names_each_failed_check_with_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from support.soak.checks import failures

    good = {
        "growth": 0.0, "resident_mib_before": 100.0, "resident_mib_after": 100.0, "tables_equal": True,
        "loader_threads_left": 0, "threads_before": 9, "threads_after": 9, "pipelined": False,
        "error_against_float64": 1e-7, "error_of_one_lost_update": [1e-3, 1.0],
    }  # fmt: skip
    assert failures(good) == []
    bad = {"growth": 0.5, "resident_mib_after": 150.0, "loader_threads_left": 2}
    found = failures({**good, **bad, "threads_after": 11, "tables_equal": False})
    assert [each.split(":")[0] for each in found] == ["memory", "threads", "threads", "tables"]
    assert "from 100.0 to 150.0 MiB, 50.00%" in found[0]


def test_a_soak_too_short_to_compare_memory_is_refused_before_it_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", ["soak.py", "--steps", "60"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(SCRIPTS / "soak.py"), run_name="__main__")
    assert caught.value.code == 2
    assert "--steps 60 is less than three times --longest 80" in capsys.readouterr().err


def test_a_program_of_replicas_that_is_not_run_prints_no_stack(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPTS / "trace_step.py"), "--replicas", "2", "--json"]
    words += ["--out", str(tmp_path / "dump"), "--vocabulary", "1000", "--batch-size", "16"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stack trace" not in done.stderr

"""scripts/tpu_smoke.py --kernels: the check of the row kernels, in a process with a time limit."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import pytest
import torch
from places import SCRIPTS

from torch_tpu_embedding.kernels import self_check
from torch_tpu_embedding.kernels.write_rows import write_records

sys.path.append(str(SCRIPTS))  # as for a script that is run

from scripts import tpu_smoke
from scripts.support.kernels import times as time_kernels


def test_without_a_tpu_it_says_so_and_does_not_fail() -> None:
    found = tpu_smoke.run(tpu_smoke.kernel_check(), limit=300)
    assert found["ok"], found["output"]
    assert found["found"] == {"fault": None, "skipped": "there is no TPU"}


def test_a_kernel_that_never_ends_is_stopped_and_reported() -> None:
    endless = [sys.executable, "-c", "import time; time.sleep(1000)"]
    found = tpu_smoke.run(dataclasses.replace(tpu_smoke.kernel_check(), command=endless), limit=1)
    assert not found["ok"]
    assert found["problem"] == "no end after 1 s"


def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The script's output where plain torch stands in for the kernels, with small sizes."""
    monkeypatch.setattr(time_kernels, "on_a_tpu", lambda: True)
    monkeypatch.setattr(time_kernels.tte.runtime, "device", lambda: torch.device("cpu"))
    for name, value in {"RECORDS": 64, "ARRAY": 256, "WRITES": 2, "ROUNDS": 2}.items():
        monkeypatch.setattr(time_kernels, name, value)
    time_kernels.main()
    return json.loads(capsys.readouterr().out)


def test_both_ways_are_timed_for_every_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_here(monkeypatch, capsys)
    assert found["fault"] is None
    times = found["nanoseconds_a_record"]
    assert [*times] == ["1 rows", "2 rows", "3 rows", "marked rows"]
    assert all({"kernel", "scatter"} == {*times[f"{rows} rows"]} for rows in (1, 2, 3))
    sums = found["nanoseconds_a_lookup"]
    assert [*sums] == ["D 32", "D 64", "D 192"]
    assert all({"kernel", "scatter"} == {*each} for each in sums.values())


def test_a_fault_is_the_problem_and_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        self_check, "write_records", lambda a, r, v, c: write_records(a, r ^ 1, v, c)
    )
    found = run_here(monkeypatch, capsys)
    assert "nanoseconds_a_record" not in found
    assert "other bits" in (tpu_smoke.kernel_check().judge(found) or "")

"""examples/train_stream.py: what it shows, and a run that is killed and begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_stream
from places import EXAMPLES, SLOW
from processes.launch import environment
from stream.data import Stream

SMALL = ["--steps", "60", "--rows", "100", "--batch-size", "64"]


def curves(path: Path) -> dict[str, Any]:
    """The AUC of each way and seed."""
    found: dict[str, Any] = json.loads(path.read_text())["auc"]
    return found


def test_a_run_killed_in_the_middle_and_begun_again_has_the_same_curve(tmp_path: Path) -> None:
    saved = tmp_path / "run"
    options = [*SMALL, "--ways", "dynamic", "--save-every", "15", "--checkpoint", str(saved)]
    results = tmp_path / "parted.json"
    command = [sys.executable, str(EXAMPLES / "train_stream.py"), *options, "--json", str(results)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60 * SLOW
        while not (saved / "dynamic-0" / "step-30").exists() and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not results.exists()
    assert train_stream.main([*options, "--json", str(results)]) == 0
    whole = tmp_path / "whole.json"
    assert train_stream.main([*SMALL, "--ways", "dynamic", "--json", str(whole)]) == 0
    assert curves(results) == curves(whole)


def test_rows_for_the_living_predict_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, picture = tmp_path / "all.json", tmp_path / "all.png"
    options = ["--steps", "240", "--rows", "200", "--batch-size", "128"]
    assert train_stream.main([*options, "--json", str(results), "--plot", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    found = {way: float(np.mean(of[0][7:])) for way, of in curves(results).items()}
    assert found["dynamic"] > found["hashed"] + 0.03
    assert found["dynamic"] > found["frozen"] + 0.03
    assert "AUC before learning, 1,000 items, 200 rows" in capsys.readouterr().out


def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*SMALL, "--ways", "hashed", "--save-every", "15", "--checkpoint", str(tmp_path)]
    options[1] = "15"
    assert train_stream.main(options) == 0
    assert train_stream.main([*options, "--batch-size", "32"]) == 2
    assert "with batch_size = 64, this run has 32" in capsys.readouterr().err


def test_items_of_a_stream_are_born_and_vanish() -> None:
    stream = Stream(100, 200, 256, seed=0)
    first, last = {*stream.batch(0).items}, {*stream.batch(199).items}
    assert not first & last
    every = {item for step in range(200) for item in stream.batch(step).items}
    assert len(every) > 4.5 * 100
    assert stream.batch(3).items == stream.batch(3).items
    now, soon = {*stream.batch(100).items}, {*stream.batch(101).items}
    assert len(now & soon) > 0.6 * len(now)

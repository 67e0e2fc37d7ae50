"""SIGTERM in the middle of an epoch: the examples save, exit with a code of its own, and resume exactly."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import train_dlrm
from checkpoints.checkpoint_fakes import assert_same, read_independently
from common.preemption import PREEMPTED, flush_and_sync
from models.small_data import FEW, OPTIONS, small_synthetic, write_files
from places import SLOW, WORKERS
from processes.launch import environment, forked_python
from workers.preemption_worker import EXAMPLES

from torch_tpu_embedding import checkpoint

LAST = {"dlrm": 30, "movielens": 14}
STOP = {"dlrm": 20, "movielens": 10}  # each in the middle of an epoch


def options(name: str, folder: Path, directory: Path, pipelined: bool) -> list[str]:
    if name == "movielens":
        data = write_files(folder / "data")
        found = ["--data", str(data), *FEW, "--seeds", "1"]
    else:
        found = [*OPTIONS.split(), "--steps", str(LAST[name]), "--no-baseline"]
    found += ["--checkpoint", str(directory)]
    return [*found, "--pipelined"] if pipelined else found


def stop(name: str, arguments: list[str]) -> tuple[int, str]:
    """Send SIGTERM to a process that trains, before step STOP; gives its exit code and what it said."""
    process = subprocess.Popen(
        [forked_python(), str(WORKERS / "preemption_worker.py"), name, str(STOP[name]), *arguments],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        waiting = next((line for line in process.stdout if line.startswith("waiting ")), None)
        assert waiting, process.communicate()[1]
        os.kill(int(waiting.split()[1]), signal.SIGTERM)  # there before it is told to go on
        _, errors = process.communicate("go on\n", timeout=30 * SLOW)
    finally:
        process.kill()
    return process.returncode, errors


def result(directory: Path) -> tuple[int, dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """The last step of a run, the losses and scores up to there, and the tables."""
    with checkpoint.open(directory) as saved:
        history = saved.extra()["history"]
    step = checkpoint.complete_steps(directory)[-1]
    measured = {key: value for key, value in history.items() if "seconds" not in key}
    return step, measured, read_independently(directory / f"step-{step}")


@pytest.mark.parametrize(
    ("name", "pipelined"), [("dlrm", False), ("dlrm", True), ("movielens", False)]
)
def test_a_preempted_run_ends_as_an_undisturbed_one_does(
    name: str,
    pipelined: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example, threads = EXAMPLES[name], torch.get_num_threads()
    monkeypatch.setattr(train_dlrm, "synthetic", small_synthetic)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    below = "seed-1" if name == "movielens" else "."
    again = options(name, tmp_path, parted, pipelined)

    status, errors = stop(name, again)
    assert status == PREEMPTED, errors
    step = checkpoint.complete_steps(parted / below)[-1]
    assert step == STOP[name] + 1
    assert f"stopped after step {step}: saved in " in errors
    assert example.main(again) == 0
    assert f"resumed at step {step} from " in capsys.readouterr().out

    advance = example.Trainer.advance

    def advance_drained(trainer: Any) -> torch.Tensor:
        """A stop applies all updates before the next rows are read: the only trace of it, if pipelined."""
        if pipelined and trainer.step == step:
            trainer.batches.close()
            flush_and_sync(trainer.embedding)
        return advance(trainer)

    monkeypatch.setattr(example.Trainer, "advance", advance_drained)
    assert example.main(options(name, tmp_path, whole, pipelined)) == 0
    torch.set_num_threads(threads)
    last, measured, tables = result(whole / below)
    found_last, found_measured, found_tables = result(parted / below)
    assert found_last == last == LAST[name]
    assert found_measured == measured
    assert_same(found_tables, tables)

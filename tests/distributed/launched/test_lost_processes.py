"""Processes that are killed, frozen, restarted: the others are told, a restarted run goes on exactly."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import train_dlrm
from models.small_data import OPTIONS, small_synthetic
from places import WORKERS
from processes.launch import LIMIT, PROMPTLY, ended, free_port, start, start_fork, torchrun

WORKER, DLRM = str(WORKERS / "torchrun_worker.py"), str(WORKERS / "torchrun_dlrm.py")


@contextmanager
def started_by_hand(
    *options: str, stoppable: bool = False
) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes without torchrun's agent, which would end them all.

    Args:
        stoppable: one can be stopped, which forks cannot.
    """
    port, begin = str(free_port()), start if stoppable else start_fork
    processes = [
        begin(
            [WORKER, "endless", *options],
            RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    with ended(*processes):
        yield processes


def wait_until_they_train(processes: Sequence[subprocess.Popen[str]]) -> list[float]:
    """The timeouts that they gave their groups, in seconds, where they say one."""
    timeouts = []
    for process in processes:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "trains\n":
                break
            if line.startswith("timeout "):
                timeouts.append(float(line.removeprefix("timeout ")))
        else:
            raise AssertionError(process.communicate()[1])
    return timeouts


def assert_lost(processes: Sequence[subprocess.Popen[str]], within: float) -> None:
    """All these end in time, and say that they lost another one."""
    begin = time.monotonic()
    for process in processes:
        _, errors = process.communicate(timeout=within)
        assert process.returncode == 1
        assert re.search(r"PeerError: process \d of \d lost another process while", errors)
        assert "it died, or took longer than the timeout of the process group" in errors
    assert time.monotonic() - begin < within


def test_a_killed_process_ends_the_others() -> None:
    with started_by_hand() as (other, killed):
        wait_until_they_train([other, killed])
        killed.kill()
        assert_lost([other], within=PROMPTLY)


@pytest.mark.parametrize(("more", "says"), [([], "ZeroDivisionError: mine"), (["--exits"], "mine")])
def test_a_process_that_an_error_or_an_exit_ends_ends_the_others(
    more: list[str], says: str
) -> None:
    """It leaves at once, and waits for nobody who waits for it."""
    with started_by_hand("--bad-rank", "1", *more) as (other, failed):
        wait_until_they_train([other, failed])
        assert_lost([other], within=PROMPTLY)
        _, errors = failed.communicate(timeout=PROMPTLY)
        assert failed.returncode == 1
        assert says in errors


def test_a_frozen_process_is_given_up_after_the_timeout() -> None:
    with started_by_hand("--impatient", stoppable=True) as (other, frozen):
        timeout, _ = wait_until_they_train([other, frozen])
        frozen.send_signal(signal.SIGSTOP)
        assert_lost([other], within=timeout + PROMPTLY)


def test_a_restarted_run_ends_as_an_undisturbed_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole.json", tmp_path / "resumed.json"
    options = [*OPTIONS.split(), "--steps", "60", "--no-baseline"]
    saving = ["--checkpoint", str(tmp_path / "saved"), "--checkpoint-every", "20"]
    agent = ["--standalone", "--nproc_per_node=2", "--max-restarts=1", "--monitor-interval=0.1"]
    process = torchrun(*agent, DLRM, *options, *saving, "--json", str(resumed))
    with ended(process):
        output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert "resumed at step 40 from" in output
    assert "PeerError: process 0 of 2 lost another process" in errors

    threads = torch.get_num_threads()
    monkeypatch.setattr(train_dlrm, "synthetic", small_synthetic)
    assert train_dlrm.main([*options, "--json", str(whole)]) == 0
    torch.set_num_threads(threads)
    one, two = (json.loads(path.read_text())["history"] for path in (whole, resumed))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert len(one["evaluations"]) == len(two["evaluations"]) == 3
    for mine, theirs in zip(one["evaluations"], two["evaluations"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5)

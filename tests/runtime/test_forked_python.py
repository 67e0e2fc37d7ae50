"""The command that the tests launch in place of `python` is as good: see fork_server.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from places import SLOW
from processes.launch import environment, forked_python, start_fork

REPORT = """
import json, os, sys, warnings
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "name": __name__, "main": sys.modules["__main__"].__name__,
    "folder": os.getcwd(), "environment": {**os.environ}, "input": sys.stdin.read(),
}))
print("said", file=sys.stderr)
warnings.warn("heard")
sys.exit(len(sys.argv))
"""
SPELLED = ["script", "-m", "-c"]


@pytest.mark.parametrize("options", [[], ["-u"], ["-W", "ignore"]], ids=" ".join)
@pytest.mark.parametrize("spelled", SPELLED)
def test_a_program_sees_and_gives_what_it_does_under_python(
    spelled: str, options: list[str], tmp_path: Path
) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    words = {"script": ["report.py"], "-m": ["-m", "report"], "-c": ["-c", REPORT]}[spelled]
    found = []
    for python in (sys.executable, forked_python()):
        done = subprocess.run(
            [python, *options, *words, "one", "-u"],
            cwd=tmp_path, input="given", capture_output=True, text=True,
            env={**environment(OTHER="1"), "PWD": str(tmp_path)},
        )  # fmt: skip
        told = json.loads(done.stdout)
        for name in ("_", "LC_CTYPE"):  # of the shell, and of a locale that Python sets
            told["environment"].pop(name, None)
        found.append((told, done.returncode, "said" in done.stderr, "heard" in done.stderr))
    assert found[1] == found[0]


def test_an_error_has_its_traceback_and_status_and_the_end_is_run() -> None:
    code = "import atexit, sys; atexit.register(print, 'end'); print('begin'); 1 / 0"
    process = start_fork(["-c", code])
    printed, errors = process.communicate(timeout=30 * SLOW)
    assert (printed, process.returncode) == ("begin\nend\n", 1)
    assert errors.endswith("ZeroDivisionError: division by zero\n")


WAIT = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 7), (signal.SIGKILL, -9), (signal.SIGINT, -2)]
)
def test_signals_reach_it_and_none_outlives_who_waits_for_it(sent: int, status: int) -> None:
    process = start_fork(["-c", WAIT])
    assert process.stdout is not None
    number = int(process.stdout.readline())
    assert number != process.pid
    process.send_signal(sent)
    process.communicate(timeout=30 * SLOW)  # until its end: it holds the standard files
    assert process.returncode == status


def test_what_is_printed_unbuffered_is_there_at_once() -> None:
    process = start_fork(["-u", "-c", "import time; print('now'); time.sleep(1000)"])
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.kill()
    process.communicate(timeout=30 * SLOW)


def test_a_process_that_kills_itself_is_seen_to_be_killed() -> None:
    process = start_fork(["-c", "import os; os.kill(os.getpid(), 9)"])
    process.communicate(timeout=30 * SLOW)
    assert process.returncode == -9

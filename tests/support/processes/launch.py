"""Processes that tests launch, with torchrun or by hand; none outlives its test."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from backends import DEVICE
from places import EXAMPLES, ROOT, SLOW, SUPPORT, python_path

HERE = Path(__file__).parent
LIMIT = 60 * SLOW
"""Seconds for a launch."""
PROMPTLY = 6 * SLOW
"""Seconds to learn of another process's end; a quiet machine needs one, the group's timeout is 600."""


def environment(**more: str) -> dict[str, str]:
    paths = python_path(ROOT, SUPPORT, EXAMPLES)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}


@functools.cache
def forked_python() -> str:
    """A command to use like `python`, whose processes have imported torch: see fork_server.py.

    It is for all whose imports are not what a test looks at, and that are not stopped (SIGSTOP). Under
    torch_tpu it is `python` itself: the device there starts with the import of torch, and no fork has it.
    """
    if DEVICE == "tpu":
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="forks-"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, str(HERE / "fork_server.py"), str(listener.fileno())],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    command = [
        sys.executable,
        "-S",
        "-E",
        str(HERE / "forked_python.py"),
        str(folder / "socket"),
    ]
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)

    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(6 * SLOW)
        server.kill()  # a process that a test has left may hold its input open
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return str(path)


def start(
    command: Sequence[str], python: str = sys.executable, **more: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, *command],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_fork(command: Sequence[str], **more: str) -> subprocess.Popen[str]:
    return start(command, forked_python(), **more)


def torchrun(*options: str) -> subprocess.Popen[str]:
    """The agent is a fork, and so are the processes that it launches."""
    return start_fork(["-m", "torch.distributed.run", *options], PYTHON_EXEC=forked_python())


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@contextlib.contextmanager
def ended(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """No process outlives the test."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()

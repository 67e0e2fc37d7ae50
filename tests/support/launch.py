"""Processes that tests launch, with torchrun or by hand; none outlives its test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from places import EXAMPLES, ROOT, SLOW, SUPPORT

LIMIT = 60 * SLOW
"""Seconds for a launch."""
PROMPTLY = 6 * SLOW
"""Seconds to learn of another process's end; a quiet machine needs one, the group's timeout is 600."""


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(SUPPORT), str(EXAMPLES)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}


def start(command: Sequence[str], **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def torchrun(*options: str) -> subprocess.Popen[str]:
    return start(["-m", "torch.distributed.run", *options])


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@contextmanager
def ended(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """No process outlives the test."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()

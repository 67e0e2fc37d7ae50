"""Gloo's lines about its connections stay off the standard output, and everything else reaches it."""

import os
import subprocess
import sys
import threading

import pytest

from torch_tpu_embedding.distributed.rendezvous import without_greetings

GREETING = (
    b"[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1\n"
)


def test_only_greetings_are_left_out_while_processes_connect(
    capfd: pytest.CaptureFixture[str],
) -> None:
    os.write(1, b"before\n")
    with without_greetings():
        os.write(1, GREETING + b"a line\n" + GREETING)
        os.write(1, b"[Gloo] something else\nno end")
    os.write(1, b", after\n" + GREETING)
    assert capfd.readouterr().out == (
        "before\na line\n[Gloo] something else\nno end, after\n" + GREETING.decode()
    )


def test_an_error_while_processes_connect_gives_the_output_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def connect() -> None:
        with without_greetings():
            os.write(1, GREETING)
            raise RuntimeError("nobody came")

    with pytest.raises(RuntimeError, match="nobody came"):
        connect()
    os.write(1, GREETING)
    assert capfd.readouterr().out == GREETING.decode()


def test_descriptors_and_threads_do_not_grow() -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with without_greetings():
        pass
    before = held()
    for _ in range(20):
        with without_greetings():
            os.write(1, GREETING)
    assert held() == before


def test_threads_that_connect_at_once_leave_the_output_as_it_was(
    capfd: pytest.CaptureFixture[str],
) -> None:
    inside, done = threading.Event(), threading.Event()

    def connect() -> None:
        with without_greetings():
            inside.set()
            done.wait(10)

    other = threading.Thread(target=connect)
    with without_greetings():
        other.start()
        assert inside.wait(10)
    done.set()
    other.join()
    os.write(1, GREETING + b"shown\n")
    assert capfd.readouterr().out == GREETING.decode() + "shown\n"


def test_a_standard_output_that_is_closed_is_no_error() -> None:
    program = (
        "import os\n"
        "from torch_tpu_embedding.distributed.rendezvous import without_greetings\n"
        "os.close(1)\n"
        "with without_greetings():\n"
        "    pass\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

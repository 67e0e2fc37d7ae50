"""Whatever ends a loop over an EmbeddingLoader, it ends promptly and leaves nothing behind."""

from __future__ import annotations

import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from places import ROOT, SLOW, python_path

import torch_tpu_embedding as tte

PROMPTLY = 0.5 * SLOW
"""Seconds; an idle machine needs less than half of one, unless the loop waits for the data."""
EPOCHS = 200


@pytest.fixture(autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """A process that a shell started in the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def embedding() -> tte.TPUEmbedding:
    table = tte.TableConfig(50, 4, name="a")
    made = tte.TPUEmbedding(
        {"a": tte.FeatureConfig(table)}, 2, tte.SGD(0.1), seed=0, enqueue_depth=9
    )
    made.build()
    return made


class Source:
    """Batches, and then no answer until it is let go; says when it was closed."""

    def __init__(self, count: int) -> None:
        self.count, self.waits, self.closed = count, threading.Event(), threading.Event()
        self.waits_since = math.inf
        self._answers: queue.Queue[None] = queue.Queue()

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        try:
            for number in range(self.count):
                yield {"a": torch.tensor([number, number])}
            self.waits_since = time.monotonic()
            self.waits.set()
            self._answers.get()
        finally:
            self.closed.set()

    def let_go(self) -> None:
        self._answers.put(None)


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "EmbeddingLoader"]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def assert_threads_end() -> None:
    for each in threads():
        each.join(10 * SLOW)
    assert threads() == []


def wait_for(batches: Any) -> None:
    """Until the thread waits for its data."""
    if isinstance(batches, Source):
        assert batches.waits.wait(10 * SLOW)


def fail_in_loop(batches: Any, embedding: tte.TPUEmbedding) -> None:
    for _ in tte.EmbeddingLoader(batches, embedding):
        wait_for(batches)
        raise ZeroDivisionError


def interrupt_in_loop(batches: Any, embedding: tte.TPUEmbedding) -> None:
    for _ in tte.EmbeddingLoader(batches, embedding):
        wait_for(batches)
        signal.raise_signal(signal.SIGINT)


def interrupt_while_it_waits(batches: Any, embedding: tte.TPUEmbedding) -> None:
    def interrupt() -> None:
        wait_for(batches)
        time.sleep(0.3)  # the loop comes to wait for the thread meanwhile
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    for _ in tte.EmbeddingLoader(batches, embedding):
        embedding.discard()


def drain(batches: Any, embedding: tte.TPUEmbedding) -> None:
    for _ in tte.EmbeddingLoader(batches, embedding):
        embedding.discard()


def leave(batches: Any, embedding: tte.TPUEmbedding) -> None:
    for _ in tte.EmbeddingLoader(batches, embedding):
        wait_for(batches)
        break


def drop_the_iterator(batches: Any, embedding: tte.TPUEmbedding) -> None:
    iterator = iter(tte.EmbeddingLoader(batches, embedding))
    next(iterator)
    wait_for(batches)
    del iterator


ENDS = [
    (leave, None),
    (drop_the_iterator, None),
    (fail_in_loop, ZeroDivisionError),
    (interrupt_in_loop, KeyboardInterrupt),
    (interrupt_while_it_waits, KeyboardInterrupt),
]


@pytest.mark.parametrize(("end", "error"), ENDS, ids=[end.__name__ for end, _ in ENDS])
def test_a_loop_ends_promptly_though_its_data_does_not_answer(
    end: Callable[[Any, tte.TPUEmbedding], None],
    error: type[BaseException] | None,
    embedding: tte.TPUEmbedding,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(2)
    if error is None:
        end(source, embedding)
    else:
        with pytest.raises(error):
            end(source, embedding)
    assert time.monotonic() - source.waits_since < PROMPTLY  # an interrupt takes 0.3 s of it
    assert "the thread still waits for its data; it ends when they answer" in caplog.text
    assert len(threads()) == 1
    source.let_go()
    assert source.closed.wait(10 * SLOW), "the data is closed by the thread that reads it"
    assert_threads_end()
    embedding.discard()


def break_of_many() -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield {"a": torch.tensor([1, 2])}


def failing() -> Iterator[dict[str, torch.Tensor]]:
    yield {"a": torch.tensor([1, 2])}
    raise OSError("the disk is gone")


def test_many_epochs_leave_no_thread_and_no_open_file(embedding: tte.TPUEmbedding) -> None:
    leave(break_of_many(), embedding)
    files = open_files()
    for number in range(EPOCHS // 4):
        leave(break_of_many(), embedding)
        drop_the_iterator(break_of_many(), embedding)
        with pytest.raises(ZeroDivisionError):
            fail_in_loop(break_of_many(), embedding)
        if number % 10 == 0:
            with pytest.raises(KeyboardInterrupt):
                interrupt_in_loop(break_of_many(), embedding)
        with pytest.raises(OSError, match="the disk is gone"):
            drain(failing(), embedding)
        assert threads() == []
    assert open_files() <= files  # those of earlier tests may have gone meanwhile


EXIT = """
import time, torch, torch_tpu_embedding as tte
table = tte.TableConfig(50, 4, name="a")
e = tte.TPUEmbedding({"a": tte.FeatureConfig(table)}, 2, tte.SGD(0.1), seed=0, enqueue_depth=9)
def stuck():
    yield {"a": torch.tensor([1, 2])}
    time.sleep(10**6)
def endless():
    while True: yield {"a": torch.tensor([1, 2])}
iterators = [iter(tte.EmbeddingLoader(data(), e)) for data in (stuck, endless, endless)]
for each in iterators: next(each)
print("ends")
"""


def test_a_program_ends_though_loops_of_it_have_not() -> None:
    paths = {"PYTHONPATH": python_path(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", EXIT],
        capture_output=True, text=True, timeout=30 * SLOW, env={**os.environ, **paths},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ends\n"), done.stderr
    assert "terminate" not in done.stderr
    assert "Traceback" not in done.stderr

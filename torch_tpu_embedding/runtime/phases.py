"""The host's time by phase: named stretches of the code, for metrics and for traces.

A phase that nobody asked for costs one comparison. Metrics ask per thread (`collect_times`), a trace for
the whole process (`set_trace`). A phase within another counts for itself, not for the outer one.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Trace(Protocol):
    """A receiver of every phase in the process; each call comes from the thread that the phase was in."""

    def add(self, name: str, start_ns: int, end_ns: int) -> None:
        """Take a phase that has ended; its times are of `time.perf_counter_ns`."""

    def mark(self, name: str) -> None:
        """Take a note that an event of this name happens now."""


class _Thread(threading.local):
    times: dict[str, int] | None = None
    clock: Callable[[], int] = staticmethod(time.perf_counter_ns)
    inner_ns = 0
    """The nanoseconds of phases that have ended within the one that runs."""


_NOTHING = contextlib.nullcontext()
_thread = _Thread()
_lock = threading.Lock()
_trace: Trace | None = None
_users = 0


class _Phase:
    def __init__(self, name: str, annotation: AbstractContextManager[None]) -> None:
        self._name = name
        self._annotation = annotation

    def __enter__(self) -> None:
        self._outer_ns, _thread.inner_ns = _thread.inner_ns, 0
        self._annotation.__enter__()
        self._clock = _thread.clock
        self._start = time.perf_counter_ns()
        self._begun = self._clock()

    def __exit__(self, *error: object) -> None:
        lasted = self._clock() - self._begun
        end = time.perf_counter_ns()
        self._annotation.__exit__(None, None, None)
        times, trace = _thread.times, _trace
        if times is not None:
            times[self._name] = times.get(self._name, 0) + lasted - _thread.inner_ns
        if trace is not None:
            trace.add(self._name, self._start, end)
        _thread.inner_ns = self._outer_ns + lasted


def phase(
    name: str, annotate: Callable[[str], AbstractContextManager[None]] | None = None
) -> AbstractContextManager[None]:
    """Time the code in this context, if anybody asked for times.

    Args:
        annotate: names the device's part of it for the backend's own profiler, while a trace is written.
    """
    if not _users:
        return _NOTHING
    return _Phase(name, annotate(name) if annotate and _trace else _NOTHING)


def timed(
    name: str, annotate: Callable[[str], AbstractContextManager[None]] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`phase` for all of a function."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if not _users:
                return function(*args, **kwargs)
            with phase(name, annotate):
                return function(*args, **kwargs)

        return run

    return wrap


def mark(name: str, number: int) -> None:
    """Note in the trace, if there is one, that a step begins."""
    trace = _trace
    if trace is not None:
        trace.mark(f"{name} {number}")


@contextlib.contextmanager
def collect_times(
    times: dict[str, int], clock: Callable[[], int] = time.perf_counter_ns
) -> Iterator[None]:
    """Add the nanoseconds of each phase of this thread, by name, to `times`.

    Args:
        clock: gives nanoseconds; with `time.thread_time_ns` the times are those in which this thread ran.
    """
    before = _thread.times, _thread.clock
    _thread.times, _thread.clock = times, clock
    _add_users(1)
    try:
        yield
    finally:
        _add_users(-1)
        _thread.times, _thread.clock = before


def set_trace(trace: Trace | None) -> None:
    """Tell `trace` of all phases from now on; None ends that.

    Raises:
        RuntimeError: another trace is being written.
    """
    global _trace
    with _lock:
        if trace is not None and _trace is not None:
            raise RuntimeError("profile: a trace is being written already; end that one first")
    _add_users((trace is not None) - (_trace is not None))
    _trace = trace


def _add_users(count: int) -> None:
    global _users
    with _lock:
        _users += count

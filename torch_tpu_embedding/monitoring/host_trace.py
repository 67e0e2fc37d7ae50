"""A trace of the host's phases, thread by thread, with the boundaries of steps.

The file is in the Trace Event Format, which ui.perfetto.dev and chrome://tracing show. While it is
written, lookup and update carry their names into torch_xla's own profiler, and into the metadata of the
programs that are compiled meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from ..io.paths import local_path, naming
from ..runtime.phases import set_trace


class _HostTrace:
    """Events in memory, some hundred bytes each."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._threads: dict[int, str] = {}
        self.events: list[dict[str, Any]] = []

    def add(self, name: str, start_ns: int, end_ns: int) -> None:
        times = {"ts": start_ns / 1e3, "dur": (end_ns - start_ns) / 1e3}
        self.events.append({"name": name, "ph": "X", **times, **self._place()})

    def mark(self, name: str) -> None:
        now = time.perf_counter_ns() / 1e3
        self.events.append({"name": name, "ph": "i", "s": "p", "ts": now, **self._place()})

    def as_json(self) -> dict[str, Any]:
        names = [(0, "process_name", f"process {self._process}")]
        names += [(thread, "thread_name", name) for thread, name in self._threads.items()]
        metadata = [
            {"name": kind, "ph": "M", "pid": self._process, "tid": thread, "args": {"name": name}}
            for thread, kind, name in names
        ]
        return {"traceEvents": [*metadata, *self.events], "displayTimeUnit": "ms"}

    def _place(self) -> dict[str, int]:
        thread = threading.get_native_id()
        if thread not in self._threads:
            self._threads[thread] = threading.current_thread().name
        return {"pid": self._process, "tid": thread}


@contextlib.contextmanager
def profile(path: str | os.PathLike[str]) -> Iterator[None]:
    """Write a trace of the steps in this context, for ui.perfetto.dev.

        with torch_tpu_embedding.profile("steps.json"):
            for _ in range(20):
                step()

    It shows, in the thread that did it: parse (inputs checked), dedup, exchange (of ids with other
    processes) and send, which are enqueue; dequeue and apply, which trace the program, with lookup and
    update in them; sync (`runtime.sync`), which compiles if need be, waits for the step before and starts
    this one; and at each dequeue of a training batch a mark "step N". What the device does meanwhile is
    for torch_xla's own profiler.

    Args:
        path: of the file, written at the end, also after an exception. Where several processes were started
            each writes its own: `steps.json` becomes `steps.0.json`, `steps.1.json`, ….

    Raises:
        RuntimeError: a trace is being written already.
        OSError: the folder does not exist or cannot be written to.
    """
    target, process = local_path(path), int(os.environ.get("RANK", "0"))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        target = target.with_name(f"{target.stem}.{process}{target.suffix}")
    trace = _HostTrace(process)
    target.open("w").close()  # before the steps, so that they are not in vain
    set_trace(trace)
    try:
        yield
    finally:
        set_trace(None)
        with naming(target), target.open("w") as file:
            json.dump(trace.as_json(), file)

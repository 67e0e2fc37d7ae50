"""`runtime.phases`: the clock by which the phases of a thread are timed."""

from __future__ import annotations

import time

from torch_tpu_embedding.runtime.phases import collect_times, phase


def test_times_of_the_thread_leave_out_what_it_waits() -> None:
    ran: dict[str, int] = {}
    with collect_times(ran, time.thread_time_ns), phase("outer"):
        with phase("waits"):
            time.sleep(0.2)
        with phase("works"):
            begin = time.thread_time()
            while time.thread_time() < begin + 0.02:
                pass
    assert ran["waits"] < 100e6
    assert ran["works"] >= 20e6
    assert ran["outer"] < 20e6, "without those within it"


def test_the_clock_is_that_of_the_innermost_collection() -> None:
    passed: dict[str, int] = {}
    ran: dict[str, int] = {}
    with collect_times(passed):
        with collect_times(ran, time.thread_time_ns), phase("waits"):
            time.sleep(0.2)
        with phase("waits"):
            time.sleep(0.2)
    assert ran["waits"] < 100e6
    assert passed["waits"] >= 200e6

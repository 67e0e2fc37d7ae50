"""One process for each chip, rows exchanged inside the program: the way of torchrun on a TPU VM.

Threads of one process stand for the processes (see replicas_worker.py). Threads that lose each other would
wait for ever: every wait has its timeout, and the test fails then.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from places import SLOW, WORKERS
from processes.launch import environment, forked_python

WORKER = WORKERS / "replicas_worker.py"
ROUNDING = 2e-6
"""A share of a table's greatest value: a row's gradient sums up to 100 terms here, in another order."""
SECONDS = 60 * SLOW


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The findings of each replica."""
    done = subprocess.run(
        [forked_python(), "-W", "ignore", str(WORKER), str(request.param)],
        capture_output=True, text=True, timeout=SECONDS,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(report) == request.param
    return report


def test_replicas_train_the_tables_of_one_device(found: list[dict[str, Any]]) -> None:
    for replica in found:
        for case in replica["trained"]:
            assert case["activations_equal_to_the_bit"], case
            assert case["table_distance"] < ROUNDING, case


def test_nothing_is_compiled_after_the_first_step(found: list[dict[str, Any]]) -> None:
    for case in found[0]["trained"]:
        if case["one_program"]:
            assert case["compiled_after_first_step"] == 0, case


def test_an_infinite_row_spoils_nothing_that_is_exchanged_after_it(
    found: list[dict[str, Any]],
) -> None:
    for replica in found:
        assert replica["finite"] == len(found) * 2 * 8


def test_the_norm_of_accumulated_gradients_is_that_of_one_device_in_every_replica(
    found: list[dict[str, Any]],
) -> None:
    norms = [tuple(replica["norms"]) for replica in found]
    assert len({norm for norm, _ in norms}) == 1, "the same to the bit"
    assert norms[0][0] == pytest.approx(norms[0][1], rel=1e-5)

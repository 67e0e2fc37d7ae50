"""The group of threads that stands for processes in tests refuses what gloo's messages cannot carry."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from processes.worlds import ThreadGroup, run_processes

from torch_tpu_embedding.distributed.group import OutOfStepError

BAD: dict[str, tuple[Callable[[ThreadGroup], object], str]] = {
    "a list": (lambda g: g.gather([1, 2]), "is no tensor"),  # type: ignore[arg-type]
    "two dimensions": (lambda g: g.gather(torch.zeros(2, 2)), r"gather: shape \[2, 2\]"),
    "dtypes": (
        lambda g: g.gather(torch.zeros(2, dtype=[torch.float32, torch.int64][g.rank])),
        "gather: the messages differ",
    ),
    "pieces": (lambda g: g.all_to_all([torch.zeros(1)], [1]), "one piece for each process"),
    "dtypes of pieces": (
        lambda g: g.all_to_all([torch.zeros(1), torch.zeros(1).int()], [1, 1]),
        "all_to_all: the messages differ",
    ),
    "dtypes of processes": (
        lambda g: g.all_to_all([torch.zeros(1).to([torch.float32, torch.int32][g.rank])] * 2, [1, 1]),
        "all_to_all: the messages differ",
    ),
    "shapes of pieces": (lambda g: g.all_to_all([torch.zeros(1, 1)] * 2, [1, 1]), r"shape \[1, 1\]"),
    "shapes of sums": (lambda g: g.sum(torch.zeros(2 + g.rank)), "sum: the messages differ"),
    "order of memory": (lambda g: g.sum(torch.zeros(2, 3).T), "in the order of memory"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_no_message_carries_is_refused(case: str) -> None:
    send, text = BAD[case]
    with pytest.raises(AssertionError, match=text):
        run_processes(2, send)


def test_an_object_that_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        run_processes(2, lambda group: group.gather_objects(threading.Lock()))


@pytest.mark.parametrize(
    "work",
    [
        lambda g: g.gather(torch.zeros(2 + g.rank)),
        lambda g: g.sum(torch.zeros(1)) if g.rank else g.gather(torch.zeros(1)),
        lambda g: g.scoped("ab"[g.rank]).gather(torch.zeros(1)),
    ],
    ids=["counts", "kinds", "scopes"],
)
def test_threads_out_of_step_are_told(work: Callable[[ThreadGroup], object]) -> None:
    with pytest.raises(OutOfStepError):
        run_processes(2, work)

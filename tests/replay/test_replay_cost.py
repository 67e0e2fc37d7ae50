"""A replayed step costs a fraction of a traced one on the host, and nothing piles up."""

from __future__ import annotations

import gc
import statistics
import time

import pytest
import torch
from models.replays import Case
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime.torch_xla import device as xla
from torch_tpu_embedding.runtime.torch_xla import programs


def test_5000_replayed_steps_keep_no_tensor_no_object_and_compile_nothing() -> None:
    def live() -> int:
        count = xla.bindings()._xla_counter_value
        return int(count("CreateXlaTensor")) - int(count("DestroyXlaTensor"))

    def train(steps: int) -> tuple[int, int, int]:
        for _ in range(steps):
            loss = step(case.next())
        assert loss.isfinite().item()
        del loss
        gc.collect()
        return live(), len(gc.get_objects()), tte.runtime.compile_count()

    case = Case("adam", dropout=0.1)
    step = tte.replay(case.step, case.embedding, verify=2, check_every=64)
    before = train(300)
    after = train(5000)
    assert step.replayed > 4900
    assert after[0] == before[0], "tensors on the device"
    assert after[1] - before[1] < 200, "objects of Python"
    assert after[2] == before[2], "programs"


def test_a_replayed_step_takes_the_host_a_fraction_of_a_traced_one() -> None:
    case = Case("adagrad")
    torch.set_num_threads(1)
    step = tte.replay(case.step, case.embedding, verify=2, check_every=10**6)
    for _ in range(40):
        step(case.next())
    times: dict[bool, list[float]] = {True: [], False: []}
    for k in range(80):
        numbers, before = case.next(), step.replayed
        for kept in step._kept.values():
            kept.due = k % 2  # every other step is traced
        start = time.thread_time()
        step(numbers)
        times[step.replayed > before].append(time.thread_time() - start)
    assert min(map(len, times.values())) >= 39
    # Small here, and traced steps that are checks; scripts measure more exactly.
    assert 3 * statistics.median(times[True]) < statistics.median(times[False])


def replaying(case: Case) -> tte.Replay:
    """A replayed step after its first traces."""
    step = tte.replay(case.step, case.embedding, verify=2, check_every=10**6)
    while step.replayed < 20:
        step(case.next())
    return step


def test_a_replayed_step_looks_at_no_tensor_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("Adam", dropout=0.1)
    step, looks, look = replaying(case), list[int](), programs.num_pending
    monkeypatch.setattr(programs, "num_pending", lambda: looks.append(look()) or looks[-1])
    before = step.traced
    for _ in range(20):
        step(case.next())
    checks = step.traced - before
    assert checks <= 1
    assert len(looks) <= 4 * checks


def test_what_is_traced_while_a_replayed_step_ends_keeps_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case("Adagrad")
    step, weight = replaying(case), case.model[0].weight
    note, found = case.embedding._steps.replayed.note, list[Tensor]()

    def note_and_trace(*args: object) -> None:
        note(*args)  # type: ignore[arg-type]
        found.append(weight.detach() * 2)  # as another thread may

    with monkeypatch.context() as during:
        during.setattr(case.embedding._steps.replayed, "note", note_and_trace)
        step(case.next())
    expected = weight.detach().cpu() * 2
    before = step.replayed
    step(case.next())
    assert step.replayed == before + 1
    assert programs.pending(found) == [False]
    assert torch.equal(found[0].cpu(), expected)
    assert not torch.equal(weight.detach().cpu() * 2, expected)

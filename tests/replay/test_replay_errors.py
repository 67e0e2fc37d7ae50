"""Errors and interrupts: before a replayed step, in it, and in a traced one; and checks that fail."""

from __future__ import annotations

import itertools
import sys
from types import FrameType
from typing import Any

import pytest
import torch
from models.replays import Case, Step, UnseenCount, assert_same, run
from torch import Tensor, nn

import torch_tpu_embedding as tte


def every_third_adds_a_term(case: Case) -> Step:
    calls = UnseenCount()

    def step(numbers: Tensor) -> Tensor:
        loss = case.loss(numbers)
        return case.update(loss * loss if next(calls) % 3 == 0 else loss)

    return step


def test_a_check_that_finds_another_program_raises_and_leaves_the_step_complete() -> None:
    case = Case()
    step = tte.replay(every_third_adds_a_term(case), case.embedding, verify=1)

    def train() -> None:
        for _ in range(12):
            step(case.next())

    with pytest.raises(tte.ReplayError, match="operations differ from trace to trace") as caught:
        train()
    assert "The last 1 replayed steps may be wrong" in str(caught.value)
    replayed = step.replayed
    for _ in range(4):
        step(case.next())  # later calls are traced
    assert step.replayed == replayed
    assert case.embedding.state_dict()["one.weight"].isfinite().all()


def test_a_period_that_verify_covers_is_never_replayed() -> None:
    found = run(True, make=every_third_adds_a_term, verify=3)
    traced = run(False, make=every_third_adds_a_term)
    assert found.step.replayed == 0
    assert_same(found.losses, traced.losses)


def test_calls_out_of_order_raise_what_they_raise_traced() -> None:
    case = Case()
    step = tte.replay(case.step, case.embedding, verify=2)
    numbers = [step(case.next()) and case.embedding.to_device(torch.zeros(8, 4)) for _ in range(8)]
    assert step.replayed >= 3
    with pytest.raises(RuntimeError, match="dequeue: no batch waits; call enqueue first"):
        step(numbers[0])
    case.embedding.enqueue(case.features(), training=False)
    with pytest.raises(RuntimeError, match="inference batch"):
        step(numbers[0])
    case.model.zero_grad()
    case.next()
    rows = case.embedding.dequeue()
    case.next()
    with pytest.raises(RuntimeError, match="still awaits its gradients"):
        step(numbers[0])
    del rows
    case.embedding.discard()
    before = step.replayed
    for _ in range(8):
        step(case.next())
    assert step.replayed > before
    with pytest.raises(RuntimeError, match="it was already called"):
        case.embedding.apply_gradients()


def test_a_wrong_rate_raises_and_the_batch_can_be_trained_after_it() -> None:
    case = Case()
    step = tte.replay(case.step, case.embedding, verify=2)
    for _ in range(8):
        step(case.next())
    numbers = case.next()
    case.embedding_optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="learning rate must be finite"):
        step(numbers)
    case.embedding_optimizer.param_groups[0]["lr"] = 0.1
    case.embedding.discard()
    case.model.zero_grad()
    loss = step(case.next())
    assert loss.isfinite().item()


@pytest.mark.parametrize("at", ["start", "dequeued", "backward", "applied"])
def test_an_exception_in_a_traced_call_leaves_queue_and_tables_usable(at: str) -> None:
    case = Case()
    failing = [False]

    def fail(where: str) -> None:
        if failing[0] and at == where:
            raise KeyError(where)

    def train_step(numbers: Tensor) -> Tensor:
        fail("start")
        loss = case.loss(numbers)
        fail("dequeued")
        loss.backward()  # type: ignore[no-untyped-call]
        fail("backward")
        case.dense_optimizer.step()
        case.embedding_optimizer.step()
        case.dense_optimizer.zero_grad()
        fail("applied")
        return loss.detach()

    step = tte.replay(train_step, case.embedding, verify=3, check_every=1)
    for k in range(14):
        failing[0] = k in (0, 2, 6)
        try:
            step(case.next())
        except KeyError:
            case.embedding.discard()
            case.dense_optimizer.zero_grad()
    assert step.replayed > 1
    assert all(each.isfinite().all() for each in case.model.state_dict().values())
    assert case.embedding.state_dict()["one.weight"].isfinite().all()


class Interrupt:
    """Raises KeyboardInterrupt before the n-th instruction of this package's replaying code."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.hit = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if "torch_tpu_embedding" not in name or "/tests/" in name:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                self.hit = True
                raise KeyboardInterrupt
        return self


def test_an_interrupt_at_any_instruction_of_a_replayed_call_leaves_whole_steps() -> None:
    case, twin = Case(), Case()
    step = tte.replay(case.step, case.embedding, verify=2, check_every=10**6)
    other = tte.replay(twin.step, twin.embedding, verify=2, check_every=10**6)
    for _ in range(40):
        step(case.next()), other(twin.next())
    for kept in (*step._kept.values(), *other._kept.values()):
        kept.due = 10**6  # no check: a traced step that is interrupted is in pieces
    traced = step.traced, other.traced
    interrupted = taken = 0
    for at in itertools.count(1, 37):
        numbers = case.next()
        version = case.embedding._tables.engine.store.version
        interrupt = Interrupt(at)
        sys.settrace(interrupt)
        try:
            step(numbers)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        took = case.embedding._tables.engine.store.version - version
        if took:
            other(twin.next())
            taken += interrupt.hit
        else:
            case.embedding.discard()
            twin.next(), twin.embedding.discard()
        if not interrupt.hit:
            break
        interrupted += 1
        # The next step works, and is the same.
        assert_same(step(case.next()).cpu(), other(twin.next()).cpu(), f"after instruction {at}")
    assert (step.traced, other.traced) == traced
    assert interrupted > 20
    assert 0 < taken < interrupted, "some came before the program began, some after"
    del twin.embedding_optimizer, case.embedding_optimizer
    one, two = case.model.state_dict(), twin.model.state_dict()
    assert_same({k: v.cpu() for k, v in one.items()}, {k: v.cpu() for k, v in two.items()})
    assert_same(
        {k: v for k, v in case.embedding.state_dict().items() if k != "_extra_state"},
        {k: v for k, v in twin.embedding.state_dict().items() if k != "_extra_state"},
    )


def test_a_program_that_torch_xla_has_dropped_is_traced_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch_tpu_embedding.runtime.torch_xla import programs

    case, twin = Case(), Case()
    step = tte.replay(case.step, case.embedding, verify=2)
    for _ in range(8):
        step(case.next()), twin.step(twin.next())
        tte.runtime.sync()

    for kept in step._kept.values():
        kept.due = 9  # no check now

    def gone(key: bytes, inputs: list[Tensor], results: list[list[Tensor]]) -> None:
        monkeypatch.undo()
        raise RuntimeError("Failed to get computation by hash")

    monkeypatch.setattr(programs, "run_again", gone)
    loss = step(case.next())
    expected = twin.step(twin.next())
    tte.runtime.sync()
    assert_same(loss.cpu(), expected.cpu())


def test_arguments_of_replay_are_checked() -> None:
    case = Case()
    with pytest.raises(TypeError, match="train_step must be a function, got 3"):
        tte.replay(3, case.embedding)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="embedding must be a TPUEmbedding, got Linear"):
        tte.replay(case.step, nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="verify must be an int of at least 1, got 0"):
        tte.replay(case.step, case.embedding, verify=0)
    with pytest.raises(ValueError, match=r"check_every must be an int of at least 1, got 0\.5"):
        tte.replay(case.step, case.embedding, check_every=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="modules must be modules, got int"):
        tte.replay(case.step, case.embedding, modules=[1])  # type: ignore[list-item]
    config = tte.FeatureConfig(tte.TableConfig(4, 2, name="t"))
    serving = tte.TPUEmbedding(config, 2, tte.SGD(0.1), device="cpu")
    with pytest.raises(
        ValueError, match="on the CPU, where nothing is traced; call the step itself"
    ):
        tte.replay(case.step, serving)

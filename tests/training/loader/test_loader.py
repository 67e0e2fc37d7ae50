"""Batches from a thread are those of enqueue: in order, with their errors, and no trace at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from models import helpers
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor
from torch.utils.data import DataLoader

import torch_tpu_embedding as tte
from torch_tpu_embedding.distributed.group import PeerError
from torch_tpu_embedding.training.call_order import Queued
from torch_tpu_embedding.training.loader_worker import Drawn, Item, Worker

B = 4


def make(seed: int = 0, **options: Any) -> tte.TPUEmbedding:
    table = tte.TableConfig(50, 4, name="a", combiner="sum")
    return tte.TPUEmbedding(
        {"id": tte.FeatureConfig(table)}, B, tte.Adagrad(0.1), seed=seed, **options
    )


def ids_of(step: int) -> tte.Ragged:
    random = torch.Generator().manual_seed(step)
    lengths = torch.randint(0, 4, (B,), generator=random)
    return tte.Ragged.from_lengths(
        torch.randint(0, 50, (int(lengths.sum()),), generator=random), lengths
    )


def data(count: int) -> list[dict[str, Any]]:
    return [{"step": step, "id": ids_of(step)} for step in range(count)]


def loader_of(batches: Any, embedding: tte.TPUEmbedding, **options: Any) -> tte.EmbeddingLoader:
    return tte.EmbeddingLoader(
        batches, embedding, features=lambda batch: {"id": batch["id"]}, **options
    )


def train(embedding: tte.TPUEmbedding) -> Tensor:
    activations = embedding.dequeue()
    tte.runtime.sync()
    found = activations["id"].detach().cpu()
    embedding.apply_gradients({"id": helpers.gradient_of(found).to(embedding.device)})
    tte.runtime.sync()
    return found


def threads() -> int:
    return sum(thread.name == "EmbeddingLoader" for thread in threading.enumerate())


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_training_from_the_thread_is_training_from_enqueue(depth: int, pipelined: bool) -> None:
    options = {"pipeline_execution_with_tensor_core": pipelined}
    one, other = make(**options), make(**options)
    for _ in range(2):
        seen = []
        for batch in loader_of(data(7), one, depth=depth):
            seen.append(batch["step"])
            other.enqueue({"id": ids_of(batch["step"])})
            torch.testing.assert_close(train(one), train(other))
        assert seen == [*range(7)]
        other.flush()
    found, wanted = helpers.tensors(one), helpers.tensors(other)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value)
    assert threads() == 0


def test_a_data_loader_with_workers_and_prepared_values() -> None:
    embedding = make()
    batches = DataLoader(data(6), batch_size=None, num_workers=0)
    loader = loader_of(batches, embedding, prepare=lambda batch: batch["step"] * 10)
    assert len(loader) == 6
    seen = []
    for value in loader:
        seen.append(value)
        train(embedding)
    assert seen == [0, 10, 20, 30, 40, 50]


def test_an_error_comes_at_its_batch_and_leaves_the_tables_of_those_before() -> None:
    embedding, other = make(), make()
    batches = data(5)
    batches[3]["id"] = tte.Ragged.from_lists([[1], [2], [99], []])
    seen: list[int] = []
    loader = loader_of(batches, embedding)
    with pytest.raises(ValueError, match=r"feature 'id' .*: id 99 at sample 2.* outside \[0, 50\)"):
        seen.extend(step["step"] for step in loader if train(embedding) is not None)
    assert seen == [0, 1, 2]
    for step in range(3):
        other.enqueue({"id": ids_of(step)})
        train(other)
    assert torch.equal(embedding.state_dict()["a.weight"], other.state_dict()["a.weight"])
    assert threads() == 0


def test_an_error_of_the_data_itself_is_raised_too() -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from data(2)
        raise OSError("the disk is gone")

    embedding = make()
    seen: list[int] = []
    loader = loader_of(broken(), embedding)
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(step["step"] for step in loader if train(embedding) is not None)
    assert seen == [0, 1]


@pytest.mark.parametrize("dequeued", [False, True])
@pytest.mark.parametrize("pipelined", [False, True])
def test_after_a_break_the_next_iteration_begins_anew(dequeued: bool, pipelined: bool) -> None:
    embedding = make(pipeline_execution_with_tensor_core=pipelined)
    loader = loader_of(data(9), embedding)
    for _ in range(3):
        for batch in loader:
            if batch["step"] == 2:
                if dequeued:
                    train(embedding)
                break
            train(embedding)
        assert threads() == 0
    assert [batch["step"] for batch in loader if train(embedding) is not None] == [*range(9)]


def test_an_exception_in_the_loop_ends_the_thread() -> None:
    embedding = make()

    def run() -> None:
        for _ in loader_of(data(9), embedding):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        run()
    assert threads() == 0


def test_evaluation_in_between_goes_its_own_way() -> None:
    embedding, other = make(), make()
    for batch in loader_of(data(6), embedding):
        train(embedding)
        other.enqueue({"id": ids_of(batch["step"])})
        train(other)
        embedding.eval()
        found = embedding({"id": ids_of(100)})["id"].cpu()
        embedding.train()
        other.enqueue({"id": ids_of(100)}, training=False)
        torch.testing.assert_close(found, other.dequeue()["id"].cpu())
    assert torch.equal(embedding.state_dict()["a.weight"], other.state_dict()["a.weight"])


class Stateful:
    """Data that knows its place, after torchdata's StatefulDataLoader."""

    def __init__(self, count: int) -> None:
        self.count, self.at = count, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.at < self.count:
            self.at += 1
            yield {"step": self.at - 1, "id": ids_of(self.at - 1)}
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


@pytest.mark.parametrize("stateful", [False, True])
def test_an_epoch_resumes_behind_the_batch_seen_last(stateful: bool) -> None:
    embedding = make()
    first = loader_of(Stateful(8) if stateful else data(8), embedding)
    for batch in first:
        train(embedding)
        if batch["step"] == 4:  # the thread is further by now
            state = first.state_dict()
            break
    again = loader_of(Stateful(8) if stateful else data(8), embedding)
    again.load_state_dict(state)
    seen = []
    for _ in range(2):
        for batch in again:
            seen.append(batch["step"])
            train(embedding)
    assert seen == [5, 6, 7, *range(8)]


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="depth must be an int of at least 1, got 0"):
        loader_of([], make(), depth=0)
    with pytest.raises(RuntimeError, match="this TPUEmbedding is on the CPU"):
        loader_of([], make(device="cpu"))


def work_in_step(group: ThreadGroup, count: int, stop_after: int | None) -> list[Any]:
    """A worker as one process's loop sees it."""
    draw = (Drawn(None, None, step, None) for step in range(count))
    queued = Queued(sent=None, training=True)  # type: ignore[arg-type]
    worker = Worker(draw, lambda drawn: Item(drawn.value, queued), 2, group)
    seen: list[Any] = []
    while (item := worker.get()).queued is not None:
        seen.append(item.value)
        if len(seen) == stop_after:
            break
    worker.stop()
    return [*seen, str(item.error)] if item.error is not None else seen


def test_threads_of_several_processes_stop_together_wherever_they_are() -> None:
    for stop_after in (None, 1, 4):
        found = run_processes(3, lambda group, s=stop_after: work_in_step(group, 8, s))
        assert found == [[*range(stop_after or 8)]] * 3
        assert threads() == 0


def test_processes_with_different_numbers_of_batches_are_an_error_not_a_hang() -> None:
    found = run_processes(2, lambda group: work_in_step(group, 3 + group.rank, None))
    message = "processes [0] of 2 have no batch left, the others have"
    assert all(seen[:3] == [0, 1, 2] and message in seen[3] for seen in found)


def test_an_error_of_one_process_reaches_the_loops_of_all() -> None:
    def work(group: ThreadGroup) -> Any:
        def draw() -> Iterator[Drawn]:
            yield Drawn(None, None, 0, None)
            if group.rank == 1:
                raise OSError("no such file")
            yield Drawn(None, None, 1, None)

        queued = Queued(sent=None, training=True)  # type: ignore[arg-type]
        worker = Worker(draw(), lambda drawn: Item(drawn.value, queued), 2, group)
        first, second = worker.get(), worker.get()
        worker.stop()
        return first.value, second.error

    (value, other), (_, own) = run_processes(2, work)
    assert value == 0
    assert isinstance(own, OSError)
    assert isinstance(other, PeerError)
    assert str(other).endswith("process 1: OSError: no such file")

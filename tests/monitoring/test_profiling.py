"""A profile shows every phase in the thread that did it, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime import phases

B = 4
ENQUEUE = {"parse", "dedup", "exchange", "buffers", "send"}
STEP = {"dequeue", "lookup", "apply", "update", "sync"}


def make() -> tte.TPUEmbedding:
    table = tte.TableConfig(50, 4, name="a")
    return tte.TPUEmbedding([tte.FeatureConfig(table)], B, tte.Adagrad(0.1), seed=0)


def train(embedding: tte.TPUEmbedding) -> None:
    embedding.dequeue()[0].square().sum().backward()
    embedding.apply_gradients()
    tte.runtime.sync()


def events_of(path: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content["traceEvents"]


def names_by_thread(events: list[dict[str, Any]]) -> dict[str, set[str]]:
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found: dict[str, set[str]] = {name: set() for name in threads.values()}
    for event in events:
        if event["ph"] == "X":
            found[threads[event["tid"]]].add(event["name"])
    return found


@pytest.mark.parametrize(
    ("as_bags", "phases"),
    [(True, ENQUEUE), (False, ENQUEUE - {"exchange"})],  # one id a sample: nothing to agree on
)
def test_the_trace_holds_phases_by_thread_and_the_steps(
    as_bags: bool, phases: set[str], tmp_path: Path
) -> None:
    embedding = make()
    ids = [torch.arange(B) + step for step in range(4)]
    lengths = torch.ones(B, dtype=torch.int64)
    batches = [[tte.Ragged.from_lengths(each, lengths) if as_bags else each] for each in ids]
    compiled = 0
    with tte.profile(tmp_path / "steps.json"):
        for _ in tte.EmbeddingLoader(batches, embedding):
            train(embedding)
            compiled = compiled or tte.runtime.compile_count()
    events = events_of(tmp_path / "steps.json")
    found = names_by_thread(events)
    assert {"EmbeddingLoader", "MainThread"} == {*found}
    assert found["EmbeddingLoader"] == phases
    assert found["MainThread"] == STEP
    steps = [e for e in events if e["ph"] == "i"]
    assert [e["name"] for e in steps] == ["step 0", "step 1", "step 2", "step 3"]
    assert all(e["dur"] >= 0 for e in events if e["ph"] == "X")
    (lookup, *_) = (e for e in events if e["name"] == "lookup")
    (dequeue, *_) = (e for e in events if e["name"] == "dequeue")
    assert dequeue["ts"] <= steps[0]["ts"] <= lookup["ts"]
    assert lookup["ts"] + lookup["dur"] <= dequeue["ts"] + dequeue["dur"]
    embedding.enqueue(batches[0])
    train(embedding)
    assert tte.runtime.compile_count() == compiled, "names are no part of a program's identity"


def test_a_trace_is_written_after_an_exception_and_nothing_is_timed_any_more(
    tmp_path: Path,
) -> None:
    embedding = make()
    with pytest.raises(ValueError, match="outside"), tte.profile(tmp_path / "t.json"):
        embedding.enqueue([torch.full((B,), 50)])
    assert [e["name"] for e in events_of(tmp_path / "t.json") if e["ph"] == "X"] == ["parse"]
    assert phases.phase("anything") is phases.phase("else"), "the same that does nothing"


def test_there_is_one_trace_at_a_time(tmp_path: Path) -> None:
    with tte.profile(tmp_path / "one.json"):
        with (
            pytest.raises(RuntimeError, match="a trace is being written already"),
            tte.profile(tmp_path / "two.json"),
        ):
            pass
        embedding = make()
        embedding.enqueue([torch.arange(B)])
    assert any(event["name"] == "send" for event in events_of(tmp_path / "one.json"))
    with pytest.raises(FileNotFoundError), tte.profile(tmp_path / "no folder" / "t.json"):
        pass


def test_each_process_writes_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with tte.profile(tmp_path / "steps.json"), phases.phase("here"):
        pass
    (event,) = (e for e in events_of(tmp_path / "steps.1.json") if e["ph"] == "X")
    assert (event["name"], event["pid"]) == ("here", 1)


def test_time_within_another_phase_counts_once() -> None:
    times: dict[str, int] = {}
    with phases.collect_times(times):
        with phases.phase("outer"):
            with phases.phase("inner"):
                torch.randn(300, 300) @ torch.randn(300, 300)
            inner = times["inner"]
        assert inner > 0
    assert times["outer"] < inner, "without the inner one it does nothing"


def test_a_step_may_end_within_a_named_part_of_the_program() -> None:
    x = torch.ones(2, device=tte.runtime.device())
    with tte.runtime.annotate("lookup"):
        y = x + 1
        tte.runtime.sync()  # torch_xla refuses this within an open name
        z = y * 2
    assert torch.equal(z.cpu(), torch.full((2,), 4.0))

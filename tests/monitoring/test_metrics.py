"""Metrics say what the batches and the tables show, and change nothing."""

from __future__ import annotations

import builtins
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from models import helpers
from processes.worlds import ThreadGroup, run_processes

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.learning_rates import current_rates
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.monitoring.metrics import Metrics
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.tables.start_values import start_values

B = 4


def config() -> dict[str, tte.FeatureConfig]:
    """Two tables of one stack, one of another; one table has two features."""
    a = tte.TableConfig(50, 4, name="a", combiner="sum")
    b = tte.TableConfig(30, 4, name="b")
    c = tte.TableConfig(20, 2, name="c")
    return {
        "bags": tte.FeatureConfig(a),
        "more": tte.FeatureConfig(a),
        "dense": tte.FeatureConfig(b),
        "sequence": tte.FeatureConfig(c, max_sequence_length=2),
    }


def make(**options: Any) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(config(), B, tte.Adagrad(0.1), seed=0, **options)


def features(step: int = 0) -> dict[str, Any]:
    return {
        "bags": tte.Ragged.from_lists([[1, 2, 2], [], [3], [step]]),
        "more": tte.Ragged.from_lists([[1], [1], [1, 1], []]),
        "dense": torch.tensor([5, 5, 6, step]),
        "sequence": tte.Ragged.from_lists([[7, 8, 9], [], [7], [10 + step]]),
    }


def train(embedding: tte.TPUEmbedding, inputs: dict[str, Any]) -> None:
    embedding.enqueue(inputs)
    activations = embedding.dequeue()
    sum(each.square().sum() for each in activations.values()).backward()
    embedding.apply_gradients()


def test_counts_are_those_of_the_batches() -> None:
    embedding = make()
    embedding.enable_metrics(every=2)
    for step in range(3):
        train(embedding, features(step))
        tte.runtime.sync()
    embedding.enqueue(features(9), training=False)
    embedding.dequeue()
    found = embedding.metrics()
    tables = found["tables"]
    assert (found["step"], found["steps"], found["batches"]) == (3, 3, 4)
    assert [tables[name]["ids"] for name in "abc"] == [27, 12, 12]
    # distinct rows of the three batches: {0, 1, 2, 3}, {1, 2, 3}, {1, 2, 3}; 3 each; {7, 8, 10 + step}
    assert [tables[name]["unique_share"] for name in "abc"] == [10 / 27, 9 / 12, 9 / 12]
    assert [tables[name]["rows_touched"] for name in "abc"] == [4, 5, 5]
    # the batch sampled is the second: a has 1 six times of 9 ids, b has 5 twice of 4, c has 7 twice of 4
    assert [tables[name]["hot_row_share"] for name in "abc"] == [6 / 9, 1 / 2, 1 / 2]
    assert found["bytes_exchanged"] == 0, "there is one device"
    (one, other) = found["padded_sizes"]
    assert (one["tables"], other["tables"]) == (["a", "b"], ["c"])
    rows, ids = one["rows"] + other["rows"], one["ids"] + other["ids"]
    assert found["padding_share"]["rows"] == pytest.approx(1 - (7 + 6 + 6 + 9) / (3 * rows))
    assert found["padding_share"]["ids"] == pytest.approx(1 - 27 / (3 * ids))
    assert found["compiles"] > 0
    assert [*found["host_ms"]] == ["parse", "dedup", "exchange", "buffers", "send"]
    assert all(lasted > 0 for lasted in found["host_ms"].values())
    assert found["device_wait_ms"] >= 0
    json.dumps(found)


def test_ids_outside_are_counted_by_what_is_done_with_them() -> None:
    inputs = features()
    inputs["bags"] = tte.Ragged.from_lists([[1, 99], [-1], [3], [4]])
    inputs["dense"] = torch.tensor([5, 5, 6, 77])
    embedding = make(id_bounds="drop")
    embedding.enable_metrics()
    train(embedding, inputs)
    tables = embedding.metrics()["tables"]
    assert tables["a"]["out_of_vocabulary"] == {"drop": 2}
    assert (tables["a"]["ids"], tables["b"]["ids"]) == (3 + 4, 3)
    assert tables["b"]["out_of_vocabulary"] == {"drop": 1}

    embedding = make()
    embedding.enable_metrics()
    with pytest.raises(ValueError, match="id 99"):
        embedding.enqueue(inputs)
    found = embedding.metrics()
    assert (found["batches"], found["batches_refused"]) == (0, 1)
    assert found["tables"]["a"]["out_of_vocabulary"] == {"raise": 0}


@pytest.mark.parametrize("pipelined", [False, True])
def test_norms_are_those_of_the_sampled_step(pipelined: bool) -> None:
    embedding, plain = make(pipeline_execution_with_tensor_core=pipelined), make()
    embedding.enable_metrics(every=3)
    wanted: dict[str, tuple[float, float]] = {}
    for step in range(2):
        weights = helpers.tensors(plain)  # the same ones, for the gradients do not depend on them
        for each in (plain, embedding):
            each.enqueue(features(step))
            activations = each.dequeue()
            each.apply_gradients({name: torch.ones_like(a) for name, a in activations.items()})
        assert embedding.metrics()["tables"]["a"]["gradient_norm"] is None, "not known before sync"
        tte.runtime.sync()
        # of step 1: a's rows 1, 2, 3 occur 6, 2 and 1 times; b's 5, 6, 1 twice, once, once; c's 7, 8, 11
        counts = {"a": {1: 6, 2: 2, 3: 1}, "b": {5: 2, 6: 1, 1: 1}, "c": {7: 2, 8: 1, 11: 1}}
        for name, of_rows in counts.items():
            dim = weights[f"{name}.weight"].shape[1]
            gradient = (dim * sum(count**2 for count in of_rows.values())) ** 0.5
            rows = weights[f"{name}.weight"][[*of_rows]]
            wanted[name] = gradient, float(rows.square().sum(1).mean().sqrt())
    if pipelined:  # the next step applies them (a flush is not sampled)
        train(embedding, features())
        tte.runtime.sync()
    tables = embedding.metrics()["tables"]
    for name, (gradient, row) in wanted.items():
        assert tables[name]["gradient_norm"] == pytest.approx(gradient, rel=1e-5)
        assert tables[name]["row_norm"] == pytest.approx(row, rel=1e-5)


def test_the_callback_sees_each_stretch_of_steps_once() -> None:
    embedding = make()
    seen: list[dict[str, Any]] = []
    embedding.enable_metrics(every=2, callback=seen.append)
    for _ in range(5):
        train(embedding, features())
        tte.runtime.sync()
    assert [(each["step"], each["steps"], each["tables"]["b"]["ids"]) for each in seen] == [
        (2, 2, 8),
        (4, 2, 8),
    ]
    assert embedding.metrics()["tables"]["b"]["ids"] == 20
    embedding.disable_metrics()
    with pytest.raises(RuntimeError, match=r"metrics: nothing is counted; call enable_metrics\(\)"):
        embedding.metrics()


def test_metrics_change_no_number_and_compile_one_program_more() -> None:
    states, compiled = [], []
    for measured in (False, True):
        embedding = make()
        if measured:
            embedding.enable_metrics(every=4)
        for step in range(12):
            train(embedding, features(step % 5))
            tte.runtime.sync()
            if step == 1:
                compiled.append(tte.runtime.compile_count())
        compiled.append(tte.runtime.compile_count())
        states.append(helpers.tensors(embedding))
    assert compiled[3] == compiled[2], "nothing is compiled after the second step"
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value)


def test_each_process_counts_its_own_and_the_bytes_it_sends() -> None:
    def work(group: ThreadGroup) -> dict[str, Any]:
        resolved = resolve(config(), tte.Adagrad(0.1))
        cpu = torch.device("cpu")
        engine = Engine(resolved, cpu, "CPU", Process(cpu, group, in_program=False))
        ids = engine.store.ids
        engine.store.fill(lambda t: start_values(resolved.tables[t], 0, ids(t)))
        metrics = Metrics(resolved, engine, "raise", 1, None)
        engine.samplers.append(metrics.sampler)
        values = features(group.rank)
        bags = [
            parse(f, resolved.table_of(f), values[f.name.split("/")[-1]]) for f in resolved.features
        ]
        with metrics.preparing():
            sent = engine.send(bags)
            metrics.observe(bags, sent)
        looked_up, activations = engine.look_up(sent)
        ones = [torch.ones_like(each) for each in activations]
        engine.update(looked_up, ones, current_rates(resolved.tables))
        metrics.step_done()
        sizes = 2 * sum(
            4 * each.order.stack.dim * each.positions_per_device for each in sent.shapes
        )
        return {**metrics.report(), "expected bytes": sizes}

    found = run_processes(2, work)
    for each in found:
        assert each["bytes_exchanged"] == each["expected bytes"] > 0
    rows = [each["tables"]["a"]["rows_touched"] for each in found]
    assert sum(rows) == 4  # 0 … 3
    squares = sum(each["tables"]["a"]["gradient_norm"] ** 2 for each in found)
    # 0 once; 1 by both: 5 and 6 times; 2 twice and 3 once by both
    assert squares == pytest.approx(4 * (1 + 11**2 + 4**2 + 2**2))


def test_reports_become_lines_of_json(tmp_path: Path) -> None:
    writer = tte.JsonLinesWriter(tmp_path / "metrics.jsonl")
    embedding = make()
    embedding.enable_metrics(every=1, callback=writer)
    for _ in range(2):
        train(embedding, features())
        tte.runtime.sync()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    writer.close()


def test_reports_become_scalars_of_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder, self.scalars = folder, []

        def add_scalar(self, *scalar: Any) -> None:
            self.scalars.append(scalar)

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    writer = tte.TensorBoardWriter("run")
    writer({"step": 7, "tables": {"a": {"ids": 3, "row_norm": None}}, "padded_sizes": [{}]})
    assert writer._writer.folder == "run"
    assert writer._writer.scalars == [("embedding/step", 7, 7), ("embedding/tables/a/ids", 3, 7)]


def test_without_tensorboard_its_writer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        ImportError, match=r"not installed; `pip install 'torch_tpu_embedding\[tensorboard\]'`"
    ):
        tte.TensorBoardWriter("run")


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="every must be an int of at least 1, got 0"):
        make().enable_metrics(every=0)
    with pytest.raises(RuntimeError, match="this TPUEmbedding is on the CPU"):
        make(device="cpu").enable_metrics()
    with pytest.raises(RuntimeError, match="nothing is counted"):
        make().metrics()

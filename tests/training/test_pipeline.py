"""Pipelined execution is the plain one with each update a step late, and loses nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from models import helpers
from models.laws import BATCH, OPTIMIZERS, Batch, assert_close, config
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.config.learning_rates import current_rates
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.reference import ReferenceEmbedding
from torch_tpu_embedding.tables.start_values import start_values
from torch_tpu_embedding.training.call_order import Queued
from torch_tpu_embedding.training.pipelining import Pipeline

STEPS = 20


def make_batch(step: int, size: int = BATCH) -> Batch:
    """Samples of few ids, so that the rows of neighbouring steps overlap."""
    rng = random.Random(step)
    return [
        [
            [(rng.randrange(feature.table.vocabulary_size), 1.0) for _ in range(rng.randrange(4))]
            for _ in range(size)
        ]
        for feature in config(tte.SGD())
    ]


class Emulation:
    """The schedule on the float64 reference: read, apply what was held, hold."""

    def __init__(self, name: str, start: dict[str, Tensor]) -> None:
        optimizer = OPTIMIZERS[name]
        self.reference = ReferenceEmbedding(config(optimizer), optimizer, start)
        self._held: tuple[Batch, list[Tensor]] | None = None
        self._read: list[Tensor] | None = None

    def step(self, batch: Batch, following: Batch | None = None) -> list[Tensor]:
        activations = self._read or self.reference.look_up(batch)
        self._read = None
        self._apply()
        if following is not None:
            self._read = self.reference.look_up(following)
        self._held = batch, [helpers.gradient_of(each) for each in activations]
        return activations

    def flush(self) -> dict[str, Tensor]:
        self._apply()
        return self.reference.state

    def _apply(self) -> None:
        if self._held is not None:
            self.reference.apply_gradients(*self._held)
        self._held = None


def inputs_of(batch: Batch) -> list[object]:
    return helpers.as_inputs(batch, "ragged")[0]


def pipelined(name: str, **options: object) -> tte.TPUEmbedding:
    optimizer = OPTIMIZERS[name]
    return tte.TPUEmbedding(
        config(optimizer), BATCH, optimizer, seed=0, pipeline_execution_with_tensor_core=True,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def finish_step(embedding: tte.TPUEmbedding, activations: Sequence[Tensor]) -> list[Tensor]:
    """The rest of a step after dequeue; gives the activations on the host."""
    tte.runtime.sync()
    found = [each.detach().cpu() for each in activations]
    gradients = [helpers.gradient_of(each).to(embedding.device) for each in found]
    embedding.apply_gradients(gradients)
    tte.runtime.sync()
    return found


def compare(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.to(torch.float64), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_pipelined_run_is_the_stale_schedule(name: str, ahead: bool) -> None:
    embedding = pipelined(name)
    emulation = Emulation(name, helpers.tensors(embedding))
    if ahead:
        embedding.enqueue(inputs_of(make_batch(0)))
    for step in range(STEPS):
        # enqueued before or after the step before it: the numbers are the same
        embedding.enqueue(inputs_of(make_batch(step + ahead)))
        found = finish_step(embedding, embedding.dequeue())
        compare(found, emulation.step(make_batch(step)))
    embedding.discard()
    assert_close(helpers.tensors(embedding), emulation.flush(), tolerance=1e-3)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["adagrad", "adam", "sgd-each", "adam-not-lazy"])
def test_several_processes_keep_the_schedule(name: str, size: int) -> None:
    optimizer = OPTIMIZERS[name]

    def work(group: ThreadGroup) -> tuple[list[list[Tensor]], dict[str, Tensor]]:
        resolved = resolve(config(optimizer), optimizer)
        cpu = torch.device("cpu")
        engine = Engine(resolved, cpu, "CPU", Process(cpu, group, in_program=False))
        ids = engine.store.ids
        engine.store.fill(lambda t: start_values(resolved.tables[t], 0, ids(t)))
        pipeline, seen = Pipeline(list), []
        mine = slice(group.rank * BATCH, (group.rank + 1) * BATCH)
        for step in range(8):
            whole = make_batch(step, BATCH * size)
            values = inputs_of([samples[mine] for samples in whole])
            bags = [
                parse(f, resolved.table_of(f), value)
                for f, value in zip(resolved.features, values, strict=True)
            ]
            queued = Queued(engine.send(bags), training=True)
            looked_up, activations = pipeline.step(engine, None, queued, None)
            joined = [torch.cat(group.gather_objects(each)) for each in activations]
            gradients = [helpers.gradient_of(each)[mine] for each in joined]
            pipeline.hold(engine, None, looked_up, gradients, current_rates(resolved.tables))
            seen.append(joined)
        engine.flush()
        tables = {}
        for t, table in enumerate(resolved.tables):
            for field, value in engine.store.read()[t].items():
                full = torch.empty(table.vocabulary_size, value.shape[1])
                for rows, part in group.gather_objects((ids(t), value)):
                    full[rows.start : rows.stop : rows.step] = part
                tables[f"{table.name}.{field}"] = full
        return seen, tables

    start = {
        f"{table.name}.{field}": value
        for table in resolve(config(optimizer), optimizer).tables
        for _, values in start_values(table, 0)
        for field, value in values.items()
    }
    emulation = Emulation(name, start)
    for seen, tables in run_processes(size, work)[:1]:
        for step, found in enumerate(seen):
            compare(found, emulation.step(make_batch(step, BATCH * size)))
        assert_close(tables, emulation.flush(), tolerance=1e-3)


def test_whatever_looks_at_the_tables_sees_every_update(tmp_path: Path) -> None:
    def after_a_step() -> tuple[tte.TPUEmbedding, dict[str, Tensor]]:
        embedding = pipelined("adagrad")
        emulation = Emulation("adagrad", helpers.tensors(embedding))
        embedding.enqueue(inputs_of(make_batch(0)))
        finish_step(embedding, embedding.dequeue())
        emulation.step(make_batch(0))
        return embedding, emulation.flush()

    embedding, wanted = after_a_step()
    assert_close(helpers.tensors(embedding), wanted)

    embedding, wanted = after_a_step()
    checkpoint.save(embedding, tmp_path, 1)
    assert_close(helpers.tensors(embedding), wanted)
    loaded = pipelined("adagrad")
    checkpoint.load(loaded, tmp_path)
    assert_close(helpers.tensors(loaded), wanted)

    embedding, wanted = after_a_step()
    embedding.eval()
    reference = ReferenceEmbedding(config(OPTIMIZERS["adagrad"]), OPTIMIZERS["adagrad"], wanted)
    compare(
        [e.cpu() for e in embedding(inputs_of(make_batch(5)))], reference.look_up(make_batch(5))
    )

    embedding, wanted = after_a_step()
    start = pipelined("adagrad").state_dict()
    embedding.load_state_dict(start)  # what was held belongs to the tables before
    assert_close(helpers.tensors(embedding), {k: start[k] for k in wanted})


def test_evaluation_and_saves_do_not_change_the_numbers_of_a_batch_that_waits() -> None:
    embedding = pipelined("adam")
    emulation = Emulation("adam", helpers.tensors(embedding))
    embedding.enqueue(inputs_of(make_batch(0)))
    for step in range(8):
        embedding.enqueue(inputs_of(make_batch(step + 1)))
        found = finish_step(embedding, embedding.dequeue())
        compare(found, emulation.step(make_batch(step), make_batch(step + 1)))
        if step % 3 == 1:
            embedding.enqueue(inputs_of(make_batch(100)), training=False, name="evaluation")
            shown = [each.cpu() for each in embedding.dequeue("evaluation")]
            emulation.flush()
            compare(shown, emulation.reference.look_up(make_batch(100)))
        if step % 3 == 2:
            assert_close(helpers.tensors(embedding), emulation.flush(), tolerance=1e-3)
    embedding.discard()
    assert_close(helpers.tensors(embedding), emulation.flush(), tolerance=1e-3)


def test_a_load_makes_batches_read_ahead_read_again() -> None:
    embedding = pipelined("adagrad")
    start = helpers.tensors(embedding)
    for step in range(2):
        embedding.enqueue(inputs_of(make_batch(step)))
    finish_step(embedding, embedding.dequeue())  # reads batch 1 too
    doubled = {key: value * 2 for key, value in start.items()}
    embedding.load_state_dict(doubled, strict=False)
    reference = ReferenceEmbedding(config(OPTIMIZERS["adagrad"]), OPTIMIZERS["adagrad"], doubled)
    compare([each.detach().cpu() for each in embedding.dequeue()], reference.look_up(make_batch(1)))


def test_learning_rates_are_those_of_the_step_that_gave_the_gradients() -> None:
    rate = [0.5]
    table = tte.TableConfig(4, 2, initializer=torch.zeros, name="a")
    embedding = tte.TPUEmbedding(
        [tte.FeatureConfig(table)],
        2,
        tte.SGD(lambda: rate[0]),
        pipeline_execution_with_tensor_core=True,
    )
    embedding.enqueue([torch.tensor([0, 1])])
    embedding.apply_gradients([torch.ones_like(each) for each in embedding.dequeue()])
    rate[0] = 100.0
    embedding.flush()
    assert torch.equal(embedding.state_dict()["a.weight"][:2], torch.full((2, 2), -0.5))


def test_serving_cannot_be_pipelined() -> None:
    with pytest.raises(ValueError, match="pipeline_execution_with_tensor_core=True needs an XLA"):
        pipelined("sgd", device="cpu")

"""Any number of processes is one process: on threads for processes, plain tensors for devices.

Lookups are equal to the bit, for a bag's sum is formed where it is needed, in the order of its ids.
Gradients are first summed per process, then over processes: tables agree to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from models import helpers
from models.laws import (
    AMPLIFIED,
    BATCH,
    CPU,
    LAYOUTS,
    OPTIMIZERS,
    Batch,
    Fast,
    batches,
    config,
    join,
)
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch import padding
from torch_tpu_embedding.config.learning_rates import current_rates
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.distributed.group import PeerError
from torch_tpu_embedding.distributed.placement import STRATEGIES, Placement, Strategy, shard_ids
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables import record_shapes
from torch_tpu_embedding.tables.start_values import start_values

SIZES = [1, 2, 3, 4]
Result = tuple[list[list[Tensor]], dict[str, Tensor]]


def train(
    group: ThreadGroup, steps: Sequence[Sequence[Batch]], name: str, kind: DeviceKind,
    strategy: Strategy, inputs: str,
) -> Result:  # fmt: skip
    """The numbers that one process sees: its activations of all steps, and at the end the whole tables."""
    optimizer = OPTIMIZERS[name]
    resolved = resolve(config(optimizer), optimizer)
    engine = Engine(resolved, CPU, kind, Process(CPU, group, in_program=False), strategy)
    ids = engine.store.ids
    engine.store.fill(lambda t: start_values(resolved.tables[t], 0, ids(t)))
    seen = []
    for parts in steps:
        values, weights = helpers.as_inputs(parts[group.rank], inputs)
        bags = [
            parse(f, resolved.table_of(f), v, None if f.max_sequence_length else w)
            for f, v, w in zip(resolved.features, values, weights, strict=True)
        ]
        looked_up, activations = engine.look_up(engine.send(bags))
        # of the whole batch's activations, so that all world sizes see the same
        whole = [torch.cat(group.gather_objects(each)) for each in activations]
        rows = slice(group.rank * BATCH, (group.rank + 1) * BATCH)
        gradients = [helpers.gradient_of(each)[rows] for each in whole]
        engine.update(looked_up, gradients, current_rates(resolved.tables))
        seen.append(activations)
    whole_tables = {}
    held = engine.store.read()
    for t, table in enumerate(resolved.tables):
        for field, value in held[t].items():
            whole = torch.empty(table.vocabulary_size, value.shape[1])
            for rows, part in group.gather_objects((ids(t), value)):
                whole[rows.start : rows.stop : rows.step] = part
            whole_tables[f"{table.name}.{field}"] = whole
    return seen, whole_tables


@pytest.fixture(autouse=True)
def narrow_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that on CPU the tables of D = 4 have a physical row for each field, and that of D = 3 has not."""
    monkeypatch.setattr(record_shapes, "_FIELD_ROW_WIDTH", 4)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=6)
@given(st.data())
def test_any_number_of_processes_trains_the_tables_of_one(
    name: str, strategy: Strategy, data: st.DataObject
) -> None:
    atol = AMPLIFIED.get(name, 1e-5)
    size = data.draw(st.sampled_from([2, 3, 4, 8]))
    kind = data.draw(st.sampled_from(LAYOUTS))
    inputs = data.draw(st.sampled_from(helpers.KINDS))
    steps = [[data.draw(batches()) for _ in range(size)] for _ in range(2)]
    work = functools.partial(
        train, steps=steps, name=name, kind=kind, strategy=strategy, inputs=inputs
    )
    results = run_processes(size, work)
    alone = Fast(config(OPTIMIZERS[name]), OPTIMIZERS[name], kind)
    for number, parts in enumerate(steps):
        wanted = alone.step(join(parts), inputs)
        for feature, each in enumerate(wanted):
            found = torch.cat([seen[number][feature] for seen, _ in results])
            if number == 0:
                assert torch.equal(found, each), "lookups of equal tables are equal to the bit"
            torch.testing.assert_close(found, each, rtol=1e-5, atol=atol)
    for key, value in alone.state().items():
        for _, tables in results:
            torch.testing.assert_close(tables[key], value, rtol=1e-5, atol=atol, msg=key)


@given(
    st.integers(1, 40), st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 4]),
    st.integers(0, 30), st.sampled_from(STRATEGIES),
)  # fmt: skip
def test_every_row_has_one_place_and_its_owner_knows_which(
    vocabulary: int, shards: int, devices: int, table: int, strategy: Strategy
) -> None:
    places = set()
    found_by_owner = {}
    for rank in range(shards):
        placement = Placement(strategy, shards, rank, devices)
        device, row = placement.locate(table, vocabulary, torch.arange(vocabulary))
        assert int(row.max()) < placement.capacity(vocabulary)
        places = set(zip(device.tolist(), row.tolist(), strict=True))
        assert len(places) == vocabulary
        ids = placement.ids(table, vocabulary)
        for local in range(devices):
            for r, i in enumerate(ids[placement.rows_of_device(table, local)]):
                found_by_owner[i] = (rank * devices + local, r)
    wanted = dict(enumerate(zip(device.tolist(), row.tolist(), strict=True)))
    assert found_by_owner == wanted


@given(
    st.builds(
        Placement, st.sampled_from(STRATEGIES), st.integers(1, 4), st.just(0), st.integers(1, 3)
    ),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)), min_size=1, max_size=5),
)
def test_the_rows_of_several_tables_are_found_as_those_of_each(
    placement: Placement, tables: list[tuple[int, int]]
) -> None:
    ids = torch.stack([torch.arange(12) % rows for _, rows in tables])
    numbers, rows = torch.tensor(tables).T[..., None]
    together = placement.locate(numbers, rows, ids)
    one_by_one = [placement.locate(*each, of) for each, of in zip(tables, ids, strict=True)]
    for found, wanted in zip(together, zip(*one_by_one, strict=True), strict=True):
        assert torch.equal(found, torch.stack(wanted))


def test_shards_are_balanced_and_id_0_of_the_tables_is_spread_out() -> None:
    for strategy in STRATEGIES:
        sizes = [len(shard_ids(11, 4, k, strategy)) for k in range(4)]
        assert sizes == [3, 3, 3, 2]
        first = [int(Placement(strategy, 4).locate(t, 11, torch.tensor([0]))[0]) for t in range(5)]
        assert first == [0, 1, 2, 3, 0]


def one_table(group: ThreadGroup) -> Engine:
    table = tte.TableConfig(10, 4, initializer=torch.zeros, name="users")
    resolved = resolve([tte.FeatureConfig(table, name="user")], tte.SGD(1.0))
    engine = Engine(resolved, CPU, "CPU", Process(CPU, group, in_program=False))
    engine.store.fill(lambda t: start_values(table_of(resolved), 0, engine.store.ids(t)))
    return engine


def table_of(resolved: object) -> object:
    return resolved.tables[0]  # type: ignore[attr-defined]


def test_an_error_of_one_process_is_raised_on_all_with_its_message_and_rank() -> None:
    def work(group: ThreadGroup) -> tuple[str, Tensor]:
        engine = one_table(group)
        own = ValueError("id 99 is outside") if group.rank == 1 else bags_of(engine, [1, 2])
        with pytest.raises((PeerError, ValueError)) as caught:
            engine.send(own)  # type: ignore[arg-type]
        engine.send(bags_of(engine, [group.rank]))  # all are still in step
        return f"{type(caught.value).__name__}: {caught.value}", engine.store.read()[0]["weight"]

    found = run_processes(3, work)
    assert found[1][0] == "ValueError: id 99 is outside"
    assert found[0][0] == found[2][0]
    assert found[0][0] == (
        "PeerError: enqueue: failed on 1 of 3 processes; process 1: ValueError: id 99 is outside"
    )


def bags_of(engine: Engine, ids: list[int]) -> list[object]:
    table = tte.TableConfig(10, 4, name="users")
    resolved = resolve([tte.FeatureConfig(table, name="user")], None)
    return [parse(resolved.features[0], resolved.tables[0], torch.tensor(ids))]


def test_different_kinds_of_batches_are_an_error_on_all() -> None:
    def work(group: ThreadGroup) -> str:
        engine = one_table(group)
        with pytest.raises(ValueError, match="gave different kinds of batches") as caught:
            engine.send(bags_of(engine, [1] * (2 + group.rank)))  # type: ignore[arg-type]
        return str(caught.value)

    first, second = run_processes(2, work)
    assert first == second
    assert "every process must enqueue the same kinds of features" in first


@pytest.mark.parametrize("empty", [0, 1])
def test_a_process_without_ids_and_one_with_many_run_the_same_program(empty: int) -> None:
    def work(group: ThreadGroup) -> tuple[object, Tensor]:
        table = tte.TableConfig(1000, 4, initializer=torch.zeros, name="users")
        resolved = resolve([tte.FeatureConfig(table, name="user")], tte.SGD(1.0))
        engine = Engine(resolved, CPU, "CPU", Process(CPU, group, in_program=False))
        engine.store.fill(lambda t: start_values(resolved.tables[t], 0, engine.store.ids(t)))
        rows = [[], []] if group.rank == empty else [list(range(500)), [3]]
        value = helpers.as_kind(rows, "ragged")
        sent = engine.send([parse(resolved.features[0], resolved.tables[0], value)])
        looked_up, _ = engine.look_up(sent)
        engine.update(looked_up, [torch.ones(2, 4)], [1.0])
        return (
            [(s.num_unique, s.num_ragged, s.positions_per_device) for s in sent.shapes],
            engine.store.read()[0]["weight"],
        )

    (first, even), (second, odd) = run_processes(2, work)
    assert first == second
    assert int((even != 0).any(1).sum()) == int((odd != 0).any(1).sum()) == 250


def test_a_size_that_one_process_has_raised_falls_on_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(padding, "_WINDOW", 8)

    def work(group: ThreadGroup) -> list[object]:
        engine = one_table(group)
        if group.rank == 1:  # as after a loop whose end another process did not see
            engine.batcher._padding_of(True, 1)[0].unique.fit(40)
        seen = []
        for step in range(20):
            ids = list(range(10)) if step == 2 and group.rank == 0 else [step % 10] * 10
            shapes = engine.send(bags_of(engine, ids)).shapes  # type: ignore[arg-type]
            seen.append([(each.num_unique, each.positions_per_device) for each in shapes])
        return seen

    first, second = run_processes(2, work)
    assert first == second
    assert first[0][0] > first[-1][0]

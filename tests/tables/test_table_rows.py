"""Blocks of rows, read and written through the device, are those of `state_dict`."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Local, Process
from torch_tpu_embedding.distributed.placement import STRATEGIES, Placement, Strategy
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables import layout, record_shapes, row_windows, store
from torch_tpu_embedding.tables.shard import DeviceRows
from torch_tpu_embedding.tables.start_values import start_values

CPU = torch.device("cpu")


def make(group: ThreadGroup, kind: DeviceKind, strategy: Strategy) -> tuple[Engine, DeviceRows]:
    """Three tables in two stacks; one of them smaller than some worlds."""
    tables = [
        tte.TableConfig(37, 4, name="a"),
        tte.TableConfig(2, 4, name="b"),
        tte.TableConfig(21, 100, optimizer=tte.optimizers.RowWiseAdagrad(0.1), name="c"),
    ]
    resolved = resolve([tte.FeatureConfig(table) for table in tables], tte.Adam(0.1))
    engine = Engine(resolved, CPU, kind, Process(CPU, group, in_program=False), strategy)
    engine.store.fill(lambda t: start_values(resolved.tables[t], 0, engine.store.ids(t)))
    rows = DeviceRows(resolved.tables, engine.store, group, strategy, engine.flush)
    return engine, rows


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_windows, "_WINDOW_BYTES", 1200)
    monkeypatch.setattr(
        record_shapes, "_FIELD_ROW_WIDTH", 4
    )  # on CPU a physical row for each field of a and b
    monkeypatch.setattr(store, "_STAGED_BYTES", 4000)  # some stacks pass whole, some in windows


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=15)
@given(st.data())
def test_blocks_read_and_written_are_rows_of_the_tables(
    kind: DeviceKind, strategy: Strategy, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([1, 2, 3]))
    cut = data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
    fields = data.draw(st.sampled_from([("weight",), ("weight", "momenta"), ("velocities",)]))

    def work(group: ThreadGroup) -> None:
        engine, rows = make(group, kind, strategy)
        before = engine.store.read()
        for table in range(3):
            held = len(rows.ids(table))
            start, stop = int(cut[0] * held), int(cut[1] * held)
            found = rows.read_rows(table, start, stop)
            assert found.keys() == before[table].keys()
            for name, value in found.items():
                assert torch.equal(value, before[table][name][start:stop])
            chosen = fields if table < 2 else ("weight",)
            new = {name: torch.rand_like(found[name]) for name in chosen}
            rows.write_rows(table, start, new)
            for name, value in new.items():
                before[table][name][start:stop] = value
        after = engine.store.read()
        for table, values in before.items():
            for name, value in values.items():
                assert torch.equal(after[table][name], value), (table, name)

    run_processes(size, work)


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=15)
@given(st.data())
def test_scattered_rows_read_are_those_of_the_tables_and_take_no_more_windows_than_all(
    kind: DeviceKind, strategy: Strategy, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([1, 2, 3]))
    chosen = data.draw(st.sets(st.integers(0, 36), max_size=12) | st.just({*range(37)}))

    def work(group: ThreadGroup) -> None:
        engine, rows = make(group, kind, strategy)
        whole = engine.store.read()
        for table in range(3):
            held = len(rows.ids(table))
            numbers = torch.tensor(sorted(n for n in chosen if n < held), dtype=torch.int64)
            with counted_fetches() as some:
                found = rows.read_scattered(table, numbers)
            assert found.keys() == whole[table].keys()
            for name, value in found.items():
                assert torch.equal(value, whole[table][name][numbers])
            with counted_fetches() as all_of_them:
                rows.read_rows(table, 0, held)
            assert len(some) <= len(all_of_them)

    run_processes(size, work)


class HeldWindows(row_windows.Windows):
    """Windows on arrays of several devices that lie on the host."""

    def _fetch(self, number: int, physical: Sequence[Tensor]) -> Tensor:
        parts = self._stack.arrays[number].parts
        of_device = self._arrays[number].chunk(len(physical))
        return torch.cat(
            [
                array[(parts * rows[:, None] + torch.arange(parts)).reshape(-1)]
                for array, rows in zip(of_device, physical, strict=True)
            ]
        )


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@settings(max_examples=30)
@given(st.integers(1, 4), st.sets(st.integers(0, 36)))
def test_scattered_rows_of_several_devices_are_those_of_blocks(
    kind: DeviceKind, devices: int, chosen: set[int]
) -> None:
    configs = [
        tte.TableConfig(37, 4, name="a"),
        tte.TableConfig(37, 4, name="b"),
        tte.TableConfig(37, 100, optimizer=tte.optimizers.RowWiseAdagrad(0.1), name="c"),
    ]
    tables = resolve([tte.FeatureConfig(config) for config in configs], tte.Adam(0.1)).tables
    placement = Placement(local_devices=devices)
    rows = torch.tensor(sorted(chosen), dtype=torch.int64)
    for stack in layout.build_stacks(tables, kind, (), placement):
        arrays = [torch.rand(devices * each.shape[0], *each.shape[1:]) for each in stack.arrays]
        held = HeldWindows(stack, arrays, placement, Local(CPU))
        for table in stack.table_indices:
            whole = held.read(table, 0, 37)
            for name, value in held.read_scattered(table, rows).items():
                assert torch.equal(value, whole[name][rows])


of_thread = threading.local()


@pytest.fixture(autouse=True)
def fetches_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all threads: each would undo the patches of the others."""
    fetch = row_windows.Windows._fetch

    def counting(self: row_windows.Windows, number: int, physical: list[Tensor]) -> Tensor:
        getattr(of_thread, "read", []).append(number)
        return fetch(self, number, physical)

    monkeypatch.setattr(row_windows.Windows, "_fetch", counting)


@contextlib.contextmanager
def counted_fetches() -> Iterator[list[int]]:
    """The windows that this thread reads meanwhile."""
    of_thread.read = read = []
    yield read
    of_thread.read = []


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
def test_scattered_rows_are_written_and_no_others(kind: DeviceKind) -> None:
    def work(group: ThreadGroup) -> None:
        engine, rows = make(group, kind, "mod")
        before = engine.store.read()[0]
        chosen = torch.tensor([0, 5, 11])
        rows.write_scattered(0, chosen, {"weight": torch.full((3, 4), 9.0)})
        before["weight"][chosen] = 9.0
        after = engine.store.read()[0]
        for name, value in before.items():
            assert torch.equal(after[name], value)

    run_processes(2, work)


@pytest.mark.parametrize("size", [1, 3])
def test_rows_count_as_changed_since_each_delta_mark_before_their_last_update(size: int) -> None:
    def work(group: ThreadGroup) -> dict[int, list[int]]:
        engine, rows = make(group, "TPU", "mod")

        def changed(mark: int) -> list[int]:
            ids = rows.ids(0)
            return [ids[row] for row in rows.changed_since(0, mark).tolist()]

        def step(ids: list[int]) -> None:
            resolved = resolve([tte.FeatureConfig(t.config) for t in rows.tables], tte.Adam(0.1))
            batch = [
                parse(f, resolved.table_of(f), torch.tensor(i))
                for f, i in zip(resolved.features, (ids, [0, 0], [1, 1]), strict=True)
            ]
            looked_up, out = engine.look_up(engine.send(batch))
            engine.update(looked_up, [torch.ones_like(each) for each in out], [0.1] * 3)

        first = rows.set_mark()
        step([3, 4])
        second = rows.set_mark()
        step([4, 30])
        engine.look_up(engine.send([*lookup(rows, [9, 9])], training=False))
        return {1: changed(first), 2: changed(second)}

    found = run_processes(size, work)
    assert sorted(i for each in found for i in each[1]) == [3, 4, 30]
    assert sorted(i for each in found for i in each[2]) == [4, 30]


def lookup(rows: DeviceRows, ids: list[int]) -> list[object]:
    resolved = resolve([tte.FeatureConfig(t.config) for t in rows.tables], tte.Adam(0.1))
    return [
        parse(f, resolved.table_of(f), torch.tensor(i))
        for f, i in zip(resolved.features, (ids, [0, 0], [1, 1]), strict=True)
    ]


@functools.cache
def trained() -> tuple[tte.TPUEmbedding, dict[str, Tensor]]:
    table = tte.TableConfig(500, 8, name="a")
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 4, tte.Adagrad(0.1), seed=1)
    return embedding, embedding.state_dict()


def test_on_the_device_blocks_compile_once() -> None:
    embedding, state = trained()
    rows = embedding.shard
    counts = []
    for start, stop in ((0, 100), (100, 101), (90, 500), (3, 350)):
        found = rows.read_rows(0, start, stop)
        scattered = torch.arange(start, stop, 7)
        for name, value in rows.read_scattered(0, scattered).items():
            assert torch.equal(value, state[f"a.{name}"][scattered])
        for name, value in found.items():
            assert torch.equal(value, state[f"a.{name}"][start:stop])
        rows.write_rows(0, start, {"weight": found["weight"] + 1})
        state["a.weight"][start:stop] += 1
        counts.append(tte.runtime.compile_count())
    assert counts[1:] == counts[:1] * 3
    assert torch.equal(embedding.state_dict()["a.weight"], state["a.weight"])


def test_a_delta_of_few_rows_reads_few_bytes_of_a_large_table_and_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = tte.TPUEmbedding(
        [tte.FeatureConfig(tte.TableConfig(3000, 8, name="a"))], 4, tte.Adagrad(0.1), seed=1
    )
    checkpoint.save(embedding, tmp_path, 1)
    rows, exchange = embedding.shard, embedding._tables.engine.exchange
    for first in (0, 1500, 2999):  # far apart: in blocks of rows, the whole table
        rows.write_rows(0, first, {"weight": torch.full((1, 8), 7.0)})
    compiled, fetched, fetch = tte.runtime.compile_count(), [], exchange.fetch
    monkeypatch.setattr(
        exchange, "fetch", lambda value: fetched.append(value.numel()) or fetch(value)
    )
    checkpoint.save(embedding, tmp_path, 2, since=1)
    assert sum(fetched) * 4 <= 2 * 1200
    assert tte.runtime.compile_count() == compiled
    with checkpoint.open(tmp_path) as reader:
        state = embedding.state_dict()
        for name in ("weight", "accumulators"):
            assert torch.equal(reader.rows("a", name)[:], state[f"a.{name}"])


def test_serving_tables_are_rows_of_the_host() -> None:
    table = tte.TableConfig(6, 2, name="a")
    serving = tte.TPUEmbedding([tte.FeatureConfig(table)], 4, tte.Adagrad(0.1), device="cpu")
    serving.shard.write_rows(0, 2, {"weight": torch.ones(3, 2)})
    serving.shard.write_scattered(0, torch.tensor([5]), {"accumulators": torch.ones(1, 2)})
    state = serving.state_dict()
    chosen = torch.tensor([1, 5])
    scattered = serving.shard.read_scattered(0, chosen)["weight"]
    assert torch.equal(scattered, state["a.weight"][chosen])
    assert torch.equal(state["a.weight"][2:5], torch.ones(3, 2))
    assert torch.equal(serving.shard.read_rows(0, 5, 6)["accumulators"], torch.ones(1, 2))
    assert serving.shard.changed_since(0, 0).tolist() == [*range(6)]

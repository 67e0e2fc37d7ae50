"""Rows read, written and searched through any number of processes are those of one plain table."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import Table, field_shape, resolve
from torch_tpu_embedding.distributed.agreement import check_together
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.distributed.group import PeerError
from torch_tpu_embedding.distributed.placement import STRATEGIES, Placement, Strategy
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables import record_shapes, row_windows
from torch_tpu_embedding.tables.access import rows as access
from torch_tpu_embedding.tables.access import scoring
from torch_tpu_embedding.tables.access.rows import RowsOfAll, merge
from torch_tpu_embedding.tables.shard import DeviceRows, HostRows

CPU = torch.device("cpu")
State = list[dict[str, Tensor]]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_windows, "_WINDOW_BYTES", 1200)
    monkeypatch.setattr(row_windows, "_FEWEST_ROWS", 2)
    monkeypatch.setattr(record_shapes, "_FIELD_ROW_WIDTH", 4)  # on CPU the fields of a have rows
    monkeypatch.setattr(access, "_BLOCK_BYTES", 200)
    monkeypatch.setattr(access, "_MOST_QUERIES", 4)
    monkeypatch.setattr(scoring, "_FEWEST_QUERIES", 2)
    monkeypatch.setattr(scoring, "_CHUNK_BYTES", 256)


def tables() -> Sequence[Table]:
    """Three tables in two stacks; one of them smaller than some worlds, one with a padding row."""
    configs = [
        tte.TableConfig(37, 4, name="a", padding_idx=5),
        tte.TableConfig(2, 4, name="b"),
        tte.TableConfig(21, 6, optimizer=tte.optimizers.RowWiseAdagrad(0.1), name="c"),
    ]
    return resolve([tte.FeatureConfig(each) for each in configs], tte.Adam(0.1)).tables


def whole_tables(seed: int) -> State:
    """Small whole numbers in every field: products and sums of them are exact, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: torch.randint(-2, 3, field_shape(table, name), generator=generator).float()
            for name in ("weight", *table.slot_names)
        }
        for table in tables()
    ]


class World:
    """The rows of one process of several, in an engine on plain tensors."""

    def __init__(
        self, group: ThreadGroup, kind: DeviceKind, strategy: Strategy, state: State
    ) -> None:
        features = [tte.FeatureConfig(table.config) for table in tables()]
        resolved = resolve(features, tte.Adam(0.1))
        exchange = Process(CPU, group, in_program=False)
        self.engine = Engine(resolved, CPU, kind, exchange, strategy)
        store = self.engine.store
        store.fill(lambda t: [(0, {n: v[list(store.ids(t))] for n, v in state[t].items()})])
        self.held = DeviceRows(resolved.tables, store, group, strategy, self.engine.flush)
        self.tables = resolved.tables

    def rows(self, number: int) -> RowsOfAll:
        return RowsOfAll(self.held, self.engine.placement, self.tables[number], number)

    def assert_holds(self, state: State) -> None:
        for number, fields in self.engine.store.read().items():
            ids = list(self.held.ids(number))
            for name, value in fields.items():
                assert torch.equal(value, state[number][name][ids]), (number, name)


def ids_in(data: st.DataObject, size: int, unique: bool = False) -> list[int]:
    return data.draw(st.lists(st.integers(0, size - 1), max_size=12, unique=unique))


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=15)
@given(st.data())
def test_each_process_reads_the_rows_it_asks_for(
    kind: DeviceKind, strategy: Strategy, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([1, 2, 3]))
    asked = [[ids_in(data, table.vocabulary_size) for table in tables()] for _ in range(size)]
    state = whole_tables(data.draw(st.integers(0, 9)))

    def work(group: ThreadGroup) -> None:
        world = World(group, kind, strategy, state)
        for number, table in enumerate(tables()):
            ids = torch.tensor(asked[group.rank][number], dtype=torch.int64)
            for field in ("weight", *table.slot_names):
                assert torch.equal(world.rows(number).read(field, ids), state[number][field][ids])

    run_processes(size, work)


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=15)
@given(st.data())
def test_written_rows_are_those_of_all_processes_and_no_others(
    kind: DeviceKind, strategy: Strategy, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([1, 2, 3]))
    number = data.draw(st.integers(0, 2))
    vocabulary = tables()[number].vocabulary_size
    fields = data.draw(st.sampled_from([("weight",), tables()[number].slot_names]))
    given_ids = [ids_in(data, vocabulary, unique=True) for _ in range(size)]
    state, new = whole_tables(0), whole_tables(1)[number]

    def work(group: ThreadGroup) -> None:
        world = World(group, kind, strategy, state)
        mark = world.held.set_mark()
        ids = torch.tensor(given_ids[group.rank], dtype=torch.int64)
        world.rows(number).write("write_rows", ids, {name: new[name][ids] for name in fields})
        wanted = [{name: value.clone() for name, value in each.items()} for each in state]
        written = sorted({each for ids in given_ids for each in ids})
        for name in fields:
            wanted[number][name][written] = new[name][written]
        world.assert_holds(wanted)
        held = world.held.ids(number)
        changed = [held[row] for row in world.held.changed_since(number, mark).tolist()]
        assert changed == [each for each in written if each in held], "what a delta takes"

    run_processes(size, work)


def test_processes_may_write_one_row_with_the_same_values_but_not_with_others() -> None:
    state = whole_tables(0)

    def work(group: ThreadGroup) -> list[str]:
        world, found = World(group, "CPU", "mod", state), []
        ids = torch.tensor([7, 4, 9])
        values = torch.ones(3, 4)
        values[0] += group.rank > 0  # id 7
        try:
            world.rows(0).write("write_rows", ids, {"weight": values})
        except (ValueError, PeerError) as error:
            found.append(str(error))
        world.assert_holds(state)
        world.rows(0).write("write_rows", ids, {"weight": torch.ones(3, 4)})
        assert world.rows(0).read("weight", ids).eq(1).all()
        return found

    found = run_processes(3, work)
    message = (
        "write_rows: table 'a': id 7 gets different values from process 0 and process 1; write a row in "
        "one process, or the same values in all"
    )
    assert all(len(each) == 1 and message in each[0] for each in found), found


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=15)
@given(st.data())
def test_a_range_is_the_same_in_every_process(
    kind: DeviceKind, strategy: Strategy, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([1, 2, 3]))
    number = data.draw(st.integers(0, 2))
    table = tables()[number]
    ends = st.integers(0, table.vocabulary_size)
    start, stop = sorted(data.draw(st.tuples(ends, ends)))
    field = data.draw(st.sampled_from(["weight", *table.slot_names]))
    state = whole_tables(2)

    def work(group: ThreadGroup) -> Tensor:
        return World(group, kind, strategy, state).rows(number).span(field, start, stop)

    for found in run_processes(size, work):
        assert torch.equal(found, state[number][field][start:stop])


def best(
    weight: Tensor, queries: Tensor, k: int, start: int, stop: int, padding: int | None
) -> tuple[Tensor, Tensor]:
    """The definition: all scores, sorted; of equal ones the lower id first."""
    ids = torch.tensor([each for each in range(start, stop) if each != padding])
    scores, places = torch.sort(queries @ weight[ids].T, dim=1, descending=True, stable=True)
    return scores[:, :k], ids[places[:, :k]]


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=20)
@given(st.data())
def test_the_best_rows_are_those_of_the_whole_table(
    kind: DeviceKind, strategy: Strategy, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([1, 2, 3]))
    number = data.draw(st.integers(0, 2))
    table = tables()[number]
    start = data.draw(st.integers(0, max(0, table.vocabulary_size - 9)))
    stop = data.draw(st.integers(min(start + 2, table.vocabulary_size), table.vocabulary_size))
    k = data.draw(st.integers(1, stop - start - 1))
    counts = data.draw(st.lists(st.integers(0, 6), min_size=size, max_size=size))
    state = whole_tables(3)
    generator = torch.Generator().manual_seed(4)
    queries = [
        torch.randint(-2, 3, (count, table.dim), generator=generator).float() for count in counts
    ]

    def work(group: ThreadGroup) -> None:
        rows, mine = World(group, kind, strategy, state).rows(number), queries[group.rank]
        scores, ids = rows.search(mine, k, start, stop, cosine=False)
        wanted = best(state[number]["weight"], mine, k, start, stop, table.padding_row)
        assert torch.equal(scores, wanted[0])
        assert torch.equal(ids, wanted[1])

    run_processes(size, work)


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
def test_the_size_of_chunks_and_of_batches_of_queries_changes_nothing(
    kind: DeviceKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = whole_tables(5)
    queries = torch.randint(-2, 3, (11, 6), generator=torch.Generator().manual_seed(6)).float()

    def work(group: ThreadGroup) -> tuple[Tensor, Tensor]:
        return World(group, kind, "mod", state).rows(2).search(queries, 5, 0, 21, cosine=True)

    found = []
    for chunk, batch in ((32, 1), (256, 4), (1 << 20, 256)):
        monkeypatch.setattr(scoring, "_CHUNK_BYTES", chunk)
        monkeypatch.setattr(access, "_MOST_QUERIES", batch)
        found += run_processes(2, work)
    for scores, ids in found[1:]:
        torch.testing.assert_close(scores, found[0][0])
        assert torch.equal(ids, found[0][1])
    cosine = torch.nn.functional.cosine_similarity(
        queries[:, None], state[2]["weight"][found[0][1]], dim=2
    )
    torch.testing.assert_close(found[0][0], cosine)


@pytest.mark.parametrize("kind", ["CPU", "TPU", "host"])
def test_numbers_that_are_not_finite_have_their_places(kind: str) -> None:
    state = whole_tables(7)
    weight = state[2]["weight"]
    weight[:] = 0.0
    weight[[3, 11, 17], 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    weight[12, 0], weight[4, 0] = -0.0, -torch.nan
    queries = torch.eye(6)[:1]

    def work(group: ThreadGroup) -> tuple[Tensor, Tensor]:
        if kind == "host":
            held = HostRows(tables(), state)
            rows = RowsOfAll(held, Placement(), tables()[2], 2)
        else:
            rows = World(group, kind, "mod", state).rows(2)  # type: ignore[arg-type]
        return rows.search(queries, 21, 0, 21, cosine=False)

    ((scores, ids),) = run_processes(1, work)
    others = [each for each in range(21) if each not in (3, 4, 11, 17)]
    assert ids[0].tolist() == [3, 4, 11, *others, 17]
    assert scores[0, :2].isnan().all()
    assert scores[0, 2].isinf()
    assert scores[0, -1] == torch.finfo(torch.float32).min


def test_tables_of_the_host_are_searched_alike() -> None:
    state = whole_tables(8)
    rows = RowsOfAll(HostRows(tables(), state), Placement(), tables()[0], 0)
    queries = torch.randint(-2, 3, (5, 4), generator=torch.Generator().manual_seed(9)).float()
    scores, ids = rows.search(queries, 9, 2, 37, cosine=False)
    wanted = best(state[0]["weight"], queries, 9, 2, 37, 5)
    assert torch.equal(scores, wanted[0])
    assert torch.equal(ids, wanted[1])


def test_what_is_missing_comes_last_when_candidates_are_merged() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, 1.0, -3.0]])
    ids = torch.tensor([[-1, 9, 2, 4]])
    assert [each.tolist() for each in merge(scores, ids, 4)] == [
        [[1.0, 1.0, -3.0, -torch.inf]],
        [[2, 9, 4, -1]],
    ]


def test_arguments_wrong_in_one_process_or_different_are_an_error_in_all() -> None:
    def work(group: ThreadGroup) -> list[str]:
        def wrong() -> tuple[int, dict[str, object]]:
            if group.rank == 1:
                raise ValueError("id 9")
            return 1, {"k is": 5}

        found = []
        for check in (wrong, lambda: (1, {"k is": group.rank})):
            try:
                check_together(group, "top_k", check)
            except (ValueError, PeerError) as error:
                found.append(str(error))
        return found

    for rank, (first, second) in enumerate(run_processes(3, work)):
        peers = "top_k: failed on 1 of 3 processes; process 1: ValueError: id 9"
        assert first == ("id 9" if rank == 1 else peers)
        assert "top_k: k is 0 on process 0 and 1 on process 1" in second

"""Bags of one length: how they are found, and that only the program depends on them."""

from __future__ import annotations

import logging

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.batch import bag_lengths
from torch_tpu_embedding.batch.bag_lengths import BagLengths, fix_length
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.inputs.bags import NO_ID, Bags, parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables.start_values import start_values

CPU = torch.device("cpu")
V, B, D = 12, 4, 4
Rows = list[list[int]]


def parsed(rows: Rows, weights: list[list[float]] | None = None, combiner: str = "sum") -> Bags:
    resolved = resolve([tte.FeatureConfig(tte.TableConfig(V, D, combiner=combiner))], None)
    of_ids = tte.Ragged.from_lists(weights, torch.float32) if weights is not None else None
    value = tte.Ragged.from_lists(rows)
    return parse(resolved.features[0], resolved.tables[0], value, of_ids)


def unknown() -> BagLengths:
    return BagLengths(["f"], [True])


def decide(lengths: BagLengths, rows: Rows) -> tuple[bool, int]:
    """True if the batch changed anything, and the length that its bags then have."""
    bags = [parsed(rows)]
    changed = lengths.decide(lengths.observe([lengths.arrange(bags)])[None])
    return changed, lengths.arrange(bags)[0].length


ids = st.integers(0, V - 1)
bags_of_any_length = st.lists(st.lists(ids, max_size=4), min_size=1, max_size=6)


@given(bags_of_any_length, st.integers(0, 2), st.data())
def test_each_bag_keeps_its_ids_and_gains_and_gets_empty_places(
    rows: Rows, more: int, data: st.DataObject
) -> None:
    weights = [
        data.draw(st.lists(st.floats(0.5, 2, width=32), min_size=len(row), max_size=len(row)))
        for row in rows
    ]
    length = max([1, *map(len, rows)]) + more
    fixed = fix_length(parsed(rows, weights), length)
    assert (fixed.bag, fixed.length, fixed.num_ids) == (None, length, sum(map(len, rows)))
    assert fixed.gain is not None
    for row, of_row, in_bag, gains in zip(
        rows, weights, fixed.ids.view(-1, length), fixed.gain.view(-1, length), strict=True
    ):
        empty = length - len(row)
        assert in_bag.tolist() == [*row, *[NO_ID] * empty]
        assert gains.tolist() == [*of_row, *[0.0] * empty]


def test_a_longer_bag_stays_as_it_is() -> None:
    bags = parsed([[1, 2, 3], [4]])
    assert fix_length(bags, 2) is bags


def test_a_first_batch_that_fills_nearly_all_places_fixes_the_length() -> None:
    nearly = [[1, 2, 3]] * 8 + [[1, 2]]
    assert decide(unknown(), [[1, 2], [3, 4]]) == (True, 2)
    assert decide(unknown(), nearly) == (True, 3)
    assert decide(unknown(), [[1, 2, 3], [1]]) == (False, 0)


def test_a_fixed_feature_takes_shorter_bags_and_none_at_all() -> None:
    lengths = unknown()
    decide(lengths, [[1, 2], [3, 4]])
    assert decide(lengths, [[1], []]) == (False, 2)
    assert decide(lengths, [[], []]) == (False, 2)


def test_a_longer_bag_makes_a_feature_ragged_for_good_which_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lengths = unknown()
    decide(lengths, [[1, 2], [3, 4]])
    with caplog.at_level(logging.INFO, logger="torch_tpu_embedding"):
        assert decide(lengths, [[1, 2], [3, 4, 5]]) == (True, 0)
    assert [record.message for record in caplog.records] == [
        "feature 'f' has a bag of 3 ids after bags of 2: its program is compiled again"
    ]
    assert decide(lengths, [[1, 2], [3, 4]]) == (False, 0)


def test_a_batch_without_ids_decides_nothing() -> None:
    lengths = unknown()
    assert decide(lengths, [[], []]) == (False, 0)
    assert decide(lengths, [[1], [2]]) == (True, 1)


def test_a_feature_that_may_not_be_fixed_never_is() -> None:
    assert decide(BagLengths(["f"], [False]), [[1, 2], [3, 4]]) == (False, 0)


def test_what_one_has_learned_another_adopts_and_where_they_differ_bags_are_ragged() -> None:
    knows, new, differs = (unknown() for _ in range(3))
    decide(knows, [[1, 2], [3, 4]])
    decide(differs, [[1], [2]])
    new.adopt(knows)
    assert decide(new, [[1], [2]]) == (False, 2)
    knows.adopt(differs)
    assert decide(knows, [[1], [2]]) == (False, 0)
    differs.adopt(unknown())
    assert decide(differs, [[1], [2]]) == (False, 1)


# -- through the engine ----------------------------------------------------------------------------

# Fixed from the first batch on; shorter bags; in the last but one a longer bag.
STEPS: list[list[Rows]] = [
    [[[1, 2], [3, 3], [5, 1], [0, 2]], [[1], [2], [3], [3]], [[4] * 3] * 4],
    [[[7, 2], [11, 3], [5, 1], [0, 2]], [[5], [2], [3], [3]], [[5, 6, 7]] * 4],
    [[[1], [], [5, 1], [2]], [[1], [], [3], [3]], [[4]] * 4],
    [[[1, 2], [1, 2, 3], [5, 1], [2]], [[1], [2], [3], [3]], [[9, 9, 8]] * 4],
    [[[1, 2], [3, 3], [5, 1], [0, 2]], [[1], [2], [3], [4]], [[4, 2]] * 4],
]
KINDS = [[2, 1, 3], [2, 1, 3], [2, 1, 3], [0, 1, 3], [0, 1, 3]]
OPTIMIZERS = [tte.SGD(0.1), tte.Adagrad(0.1), tte.Adam(0.1, epsilon=1e-2)]


def train(
    kind: DeviceKind, optimizer: tte.optimizers.Optimizer, group: ThreadGroup | None = None
) -> tuple[list[list[int]], list[list[Tensor]], list[Tensor]]:
    """Bag lengths and activations of all steps, and the tables, with zeros for what is on other processes.

    The first feature has weights.
    """
    tables = [tte.TableConfig(V, D, combiner=c, name=c) for c in ("mean", "sum", "sqrtn")]
    resolved = resolve([tte.FeatureConfig(table) for table in tables], optimizer)
    exchange = Process(CPU, group, in_program=False) if group is not None else None
    engine = Engine(resolved, CPU, kind, exchange)
    engine.store.fill(lambda t: start_values(resolved.tables[t], 0, engine.store.ids(t)))
    rank, size = (group.rank, group.size) if group is not None else (0, 1)
    share = slice(rank * B // size, (rank + 1) * B // size)
    found, outputs = [], []
    for step in STEPS:
        bags = []
        for number, rows in enumerate(each[share] for each in step):
            value, weights = tte.Ragged.from_lists(rows), None
            if number == 0:
                given = [[0.5 + i for i in range(len(row))] for row in rows]
                weights = tte.Ragged.from_lists(given, torch.float32)
            bags.append(parse(resolved.features[number], resolved.tables[number], value, weights))
        sent = engine.send(bags)
        looked_up, activations = engine.look_up(sent)
        engine.update(looked_up, [each.sin() + 0.1 for each in activations], [0.1] * 3)
        outputs.append(activations)
        spans = [s for shape in sent.shapes for s in shape.order.spans]
        spans.sort(key=lambda span: span.feature_index)
        found.append([span.form.length for span in spans])
    weights = [
        torch.zeros(V, D).index_copy(0, torch.tensor(engine.store.ids(table)), fields["weight"])
        for table, fields in engine.store.read().items()
    ]
    return found, outputs, weights


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
def test_fixed_and_ragged_bags_give_the_same_activations_and_tables(
    kind: DeviceKind, optimizer: tte.optimizers.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds, fixed, tables = train(kind, optimizer)
    assert kinds == KINDS
    monkeypatch.setattr(bag_lengths, "_MOST_POSITIONS_AN_ID", 0)
    kinds, ragged, tables_of_ragged = train(kind, optimizer)
    assert kinds == [[0, 0, 0]] * len(STEPS)
    torch.testing.assert_close(fixed, ragged, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tables, tables_of_ragged, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [2, 4])
def test_all_processes_take_the_same_lengths_and_get_what_one_gets(size: int) -> None:
    """The longer bag of the fourth step comes to one process; all make the feature ragged then."""
    _, outputs, tables = train("CPU", tte.Adagrad(0.1))
    worlds = run_processes(size, lambda group: train("CPU", tte.Adagrad(0.1), group))
    for kinds, _, _ in worlds:
        assert kinds == KINDS
    for number, of_step in enumerate(outputs):
        for feature, wanted in enumerate(of_step):
            got = torch.cat([of_process[number][feature] for _, of_process, _ in worlds])
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    together = [sum(of_table) for of_table in zip(*(world[2] for world in worlds), strict=True)]
    torch.testing.assert_close(together, tables, rtol=1e-5, atol=1e-6)


def test_an_optimizer_that_steps_once_per_occurrence_keeps_bags_ragged() -> None:
    optimizer = tte.Adagrad(0.1, use_gradient_accumulation=False)
    assert train("CPU", optimizer)[0] == [[0, 0, 0]] * len(STEPS)


def test_bags_of_one_length_need_one_program_more_when_a_longer_one_comes() -> None:
    table = tte.TableConfig(V, D, name="t")
    emb = tte.TPUEmbedding(tte.FeatureConfig(table), B, tte.Adagrad(0.1))
    compiles = []
    for rows in [[[1, 2]] * B, [[3, 1]] * B, [[2], [1], [], [4, 5]], [[1, 2, 3]] * B, [[1]] * B]:
        before = tte.runtime.compile_count()
        emb.enqueue(tte.Ragged.from_lists(rows))
        activations = emb.dequeue()
        emb.apply_gradients(torch.ones(B, D).to(activations.device))
        del activations
        tte.runtime.sync(wait=True)
        compiles.append(tte.runtime.compile_count() - before)
    assert compiles[1:3] == [0, 0]
    assert compiles[3] > 0
    assert compiles[4] == 0


def test_on_xla_the_sum_of_a_bag_does_not_depend_on_the_bags_beside_it() -> None:
    table = tte.TableConfig(V, 5, combiner="mean", name="t")
    rows = [[(3 * bag + 5 * place) % V for place in range(7)] for bag in range(6)]
    found = []
    for bags in (6, 1):
        emb = tte.TPUEmbedding(tte.FeatureConfig(table), bags, tte.SGD(0.1), seed=0)
        emb.enqueue(tte.Ragged.from_lists(rows[:bags]), training=False)
        found.append(emb.dequeue().cpu()[0])
    assert torch.equal(*found)

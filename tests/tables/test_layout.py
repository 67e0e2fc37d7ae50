"""Stacks, records and lanes: which tables share an array, and how rows lie in it."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import Table, field_shape, resolve
from torch_tpu_embedding.program.records import field_of, gather_records, gather_weights
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables.layout import build_stacks
from torch_tpu_embedding.tables.record_shapes import LANES, record_arrays, record_lanes
from torch_tpu_embedding.tables.store import TableStore

OPTIMIZERS = (
    tte.SGD(0.1),
    tte.SGD(0.2),
    tte.Adagrad(0.1),
    tte.RowWiseAdagrad(0.1),
    tte.AdagradMomentum(0.1),
    tte.Adam(0.1),
    tte.FTRL(0.1),
    None,
)
KINDS: tuple[DeviceKind, ...] = ("CPU", "TPU")


def tables_of(specs: list[tuple[int, int, tte.optimizers.Optimizer | None]]) -> tuple[Table, ...]:
    features = [
        tte.FeatureConfig(tte.TableConfig(rows, dim, optimizer=optimizer))
        for rows, dim, optimizer in specs
    ]
    return resolve(features, None).tables


specs = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([1, 3, 8, 64, 130]), st.sampled_from(OPTIMIZERS)),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize(
    ("dim", "slots", "arrays"),
    [
        (16, (), [("weight",)]),
        (64, ("accumulators",), [("weight", "accumulators")]),
        (65, ("accumulators",), [("weight", "accumulators")]),
        (128, ("accumulators",), [("weight", "accumulators")]),
        (32, ("momenta", "velocities"), [("weight", "momenta", "velocities")]),
        (64, ("momenta", "velocities"), [("weight",), ("momenta", "velocities")]),
        (128, ("momenta", "velocities"), [("weight", "momenta", "velocities")]),
        (192, ("momenta", "velocities"), [("weight", "momenta", "velocities")]),
    ],
)
def test_on_tpu_slots_lie_with_the_weights_unless_padding_would_cost_memory(
    dim: int, slots: tuple[str, ...], arrays: list[tuple[str, ...]]
) -> None:
    widths = dict.fromkeys(slots, dim)
    assert record_arrays("TPU", dim, widths) == arrays
    assert record_arrays("CPU", dim, widths) == [("weight", *slots)]


def test_on_tpu_a_slot_of_one_number_a_row_is_a_vector() -> None:
    assert record_arrays("TPU", 64, {"accumulators": 1}) == [("weight",), ("accumulators",)]
    (stack,) = build_stacks(tables_of([(100, 64, tte.RowWiseAdagrad())]), "TPU")
    assert [array.shape for array in stack.arrays] == [(56, 128), (1024,)]
    (stack,) = build_stacks(tables_of([(100, 64, tte.RowWiseAdagrad())]), "CPU")
    assert [array.shape for array in stack.arrays] == [(104, 65)]


@pytest.mark.parametrize(
    ("dim", "rule", "shape"),
    [(64, tte.Adagrad(), (208, 64)), (64, tte.SGD(), (104, 64)), (32, tte.Adagrad(), (104, 64))],
)
def test_on_cpu_wide_fields_of_a_record_are_rows_of_their_own(
    dim: int, rule: tte.optimizers.Optimizer, shape: tuple[int, int]
) -> None:
    (stack,) = build_stacks(tables_of([(100, dim, rule)]), "CPU")
    (array,) = stack.arrays
    assert array.shape == shape
    assert array.fields_have_rows == (shape[0] == 208)
    assert array.num_elements == shape[0] * shape[1]


@pytest.mark.parametrize(
    ("kind", "dim", "optimizer", "whole"),
    [
        ("TPU", 64, tte.Adagrad(0.1), True),
        ("TPU", 16, tte.Adam(0.1), True),
        ("TPU", 64, tte.SGD(0.1), False),  # nothing but weights
        ("TPU", 64, tte.Adam(0.1), False),  # whose slots lie elsewhere
        ("TPU", 128, tte.Adagrad(0.1), False),  # twice the lanes to move
        ("CPU", 16, tte.Adagrad(0.1), False),
    ],
)
def test_a_tpu_hands_out_whole_records_that_it_moves_as_one_row(
    kind: DeviceKind, dim: int, optimizer: tte.optimizers.Optimizer, whole: bool
) -> None:
    (stack,) = build_stacks(tables_of([(40, dim, optimizer)]), kind)
    assert stack.hands_out_records == whole


@pytest.mark.parametrize("kind", KINDS)
@given(specs, st.data())
def test_weights_read_alone_are_those_of_whole_records(
    kind: DeviceKind,
    drawn: list[tuple[int, int, tte.optimizers.Optimizer | None]],
    data: st.DataObject,
) -> None:
    for stack in build_stacks(tables_of(drawn), kind):
        layout = stack.arrays[0]
        array = torch.arange(layout.num_elements, dtype=torch.float32).view(layout.shape)
        numbers = st.lists(st.integers(0, stack.num_records - 1), max_size=5)
        record = torch.tensor(sorted(data.draw(numbers)), dtype=torch.int32)
        wanted = field_of(layout, gather_records(layout, array, record), "weight")
        assert torch.equal(gather_weights(layout, array, record), wanted)


@pytest.mark.parametrize(
    ("lanes", "width", "per_row"),
    [(1, 1, 128), (3, 4, 32), (64, 64, 2), (65, 128, 1), (130, 256, 1)],
)
def test_on_tpu_a_physical_row_is_a_multiple_of_128_lanes(
    lanes: int, width: int, per_row: int
) -> None:
    assert record_lanes("TPU", lanes) == (width, per_row)
    assert record_lanes("CPU", lanes) == (lanes, 1)


@pytest.mark.parametrize("kind", KINDS)
@given(specs)
def test_every_table_lies_in_one_stack_with_room_for_a_padding_record(
    kind: DeviceKind, specs: list[tuple[int, int, tte.optimizers.Optimizer | None]]
) -> None:
    tables = tables_of(specs)
    stacks = build_stacks(tables, kind)
    members = [index for stack in stacks for index in stack.table_indices]
    assert sorted(members) == list(range(len(tables)))
    sizes = []
    for stack in stacks:
        ends = [*stack.first_records[1:], stack.num_records]
        for index, first, end in zip(stack.table_indices, stack.first_records, ends, strict=True):
            assert end - first == tables[index].vocabulary_size
            assert tables[index].dim == stack.dim
        assert stack.arrays[0].fields[0] == "weight"
        for array in stack.arrays:
            assert array.num_rows * array.records_per_row > stack.padding_record
            assert array.num_rows % 8 == 0
            if kind == "TPU":
                assert array.is_vector or array.row_width % LANES == 0
            sizes.append(array.num_elements)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("kind", KINDS)
@given(specs)
def test_what_is_written_to_a_table_is_read_back_from_it(
    kind: DeviceKind, specs: list[tuple[int, int, tte.optimizers.Optimizer | None]]
) -> None:
    features = [
        tte.FeatureConfig(tte.TableConfig(rows, dim, optimizer=optimizer))
        for rows, dim, optimizer in specs
    ]
    resolved = resolve(features, None)
    store = TableStore(resolved, torch.device("cpu"), kind)

    def values(index: int) -> dict[str, torch.Tensor]:
        table = resolved.tables[index]
        slots = table.optimizer.slot_variable_names if table.optimizer else ()
        return {
            name: torch.rand(field_shape(table, name)) + 100 * index + 10 * number
            for number, name in enumerate(("weight", *slots))
        }

    written = {index: values(index) for index in range(len(resolved.tables))}
    store.fill(lambda table: [(0, written[table])])
    one = {"weight": torch.full_like(written[0]["weight"], 7.0)}
    store.replace({0: one})  # a part of one table; the rest stays
    written[0].update(one)
    for index, fields in store.read().items():
        assert fields.keys() == written[index].keys()
        for name, value in fields.items():
            assert torch.equal(value, written[index][name]), (index, name)


def test_tables_with_different_rates_share_a_stack_and_different_rules_do_not() -> None:
    tables = tables_of(
        [(4, 8, tte.SGD(0.1)), (5, 8, tte.SGD(0.2)), (6, 8, tte.SGD(0.1, clipvalue=1.0))]
    )
    assert [stack.table_indices for stack in build_stacks(tables, "CPU")] == [(0, 1), (2,)]


def test_sizes_of_other_live_embeddings_are_avoided() -> None:
    features = [tte.FeatureConfig(tte.TableConfig(10, 4))]
    stores = [
        TableStore(resolve(features, tte.SGD()), torch.device("cpu"), "CPU") for _ in range(3)
    ]
    sizes = [store.stacks[0].arrays[0].num_elements for store in stores]
    assert len(set(sizes)) == 3
    del stores


def test_a_table_too_large_to_number_names_the_table_and_the_limit() -> None:
    tables = tables_of([(2**31, 1, None)])
    with pytest.raises(
        ValueError, match=r"table 'table_0': 2147483648 of its 2147483648 rows .*split the table"
    ):
        build_stacks(tables, "TPU")


def test_a_table_too_large_for_the_device_is_an_error_before_any_of_it_is_built() -> None:
    def features(rows: int) -> tte.FeatureConfig:
        return tte.FeatureConfig(tte.TableConfig(rows, 1, name="huge"))

    tte.TPUEmbedding(features(2**31 - 8), 2, tte.SGD())
    with pytest.raises(
        ValueError, match=r"table 'huge': 2147483641 .*\(2147483640\); split the table"
    ):
        tte.TPUEmbedding(features(2**31 - 7), 2, tte.SGD())


def test_a_full_stack_is_followed_by_another() -> None:
    tables = tables_of([(2**30, 1, None), (2**30, 1, None), (5, 1, None)])
    assert [stack.table_indices for stack in build_stacks(tables, "TPU")] == [(0, 2), (1,)]

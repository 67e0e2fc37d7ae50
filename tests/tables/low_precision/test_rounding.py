"""Rounding to bfloat16, and the lanes in which two of them lie: on the host and on the device."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import runtime
from torch_tpu_embedding.config.resolved import Resolved, resolve
from torch_tpu_embedding.distributed.placement import Placement, Strategy
from torch_tpu_embedding.program.records import gather_records, replace_packed
from torch_tpu_embedding.reference import random_bits_of, round_to_bfloat16
from torch_tpu_embedding.runtime import DeviceKind, bits
from torch_tpu_embedding.tables.layout import build_stacks
from torch_tpu_embedding.tables.low_precision.keys import step_keys
from torch_tpu_embedding.tables.low_precision.lanes import lanes_of, numbers_of
from torch_tpu_embedding.tables.low_precision.rounding import (
    exact_or_reason,
    nearest,
    random_bits,
    rounded_bits,
)

CPU = torch.device("cpu")
PATTERNS = st.integers(-(2**31), 2**31 - 1)
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-45, 3.4028234e38, 1.00390625]


def places() -> list[torch.device]:
    return [CPU, runtime.device()]


def floats(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


@given(st.lists(PATTERNS, min_size=1, max_size=8))
@settings(max_examples=20)
def test_bits_are_the_same_on_the_host_and_on_the_device(patterns: list[int]) -> None:
    on_host = torch.tensor(patterns, dtype=torch.int32)
    on_device = on_host.to(runtime.device())
    for by in (1, 15, 16, 30):
        shifted = [pattern % 2**32 >> by for pattern in patterns]
        assert bits.shift_right(on_host, by).tolist() == shifted
        assert bits.shift_right(on_device, by).tolist() == shifted
    # to floats and back no bit changes, of nan neither
    for each in (on_host, on_device):
        assert torch.equal(bits.as_ints(bits.as_floats(each)).cpu(), on_host)


@pytest.mark.parametrize("device", places(), ids=str)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(0, 2**16 - 1)),
)
@settings(max_examples=20)
def test_each_number_is_rounded_as_the_reference_says(
    device: torch.device, values: list[float], random: int | None
) -> None:
    values = [*values, *SPECIAL]
    given_bits = None if random is None else torch.full((len(values),), random).int().to(device)
    on_device = floats(values).to(device)
    found = bits.as_floats(rounded_bits(on_device, given_bits).cpu())
    wanted = floats([round_to_bfloat16(float(each), random) for each in floats(values)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found.signbit()[found == 0], wanted.signbit()[found == 0])


@given(st.floats(width=32, allow_nan=False))
def test_nearest_is_the_rounding_of_torch(value: float) -> None:
    assert torch.equal(nearest(floats([value])), floats([value]).bfloat16().float())


@given(st.floats(-(2.0**100), 2.0**100, width=32))
@settings(max_examples=30)
def test_over_all_random_bits_the_mean_of_the_results_is_the_number_itself(value: float) -> None:
    random = torch.arange(2**16, dtype=torch.int32)
    found = bits.as_floats(rounded_bits(floats([value]).expand(2**16).contiguous(), random))
    assert len(found.unique()) <= 2
    assert found.double().mean().item() == pytest.approx(value, rel=1e-12, abs=0)


@given(st.floats(width=32), st.integers(0, 2**16 - 1))
def test_a_number_that_bfloat16_has_stays_whatever_the_random_bits_are(
    value: float, random: int
) -> None:
    exact = floats([value]).bfloat16().float()
    found = rounded_bits(exact, torch.tensor([random], dtype=torch.int32))
    torch.testing.assert_close(bits.as_floats(found), exact, rtol=0, atol=0, equal_nan=True)


def tables_of(dim: int, optimizer: tte.optimizers.Optimizer, count: int = 2) -> Resolved:
    tables = [
        tte.TableConfig(30 + n, dim, name=f"t{n}", dtype=torch.bfloat16) for n in range(count)
    ]
    return resolve([tte.FeatureConfig(each) for each in tables], optimizer)


@pytest.mark.parametrize("device", places(), ids=str)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("strategy", "shards"), [("mod", 1), ("mod", 3), ("div", 3)])
def test_random_bits_are_those_of_the_reference_whoever_holds_the_row(
    device: torch.device, count: int, strategy: Strategy, shards: int
) -> None:
    dim, seed, step = 5, 2**61 + 7, 3
    resolved = tables_of(dim, tte.SGD(), count)
    seen = 0
    for rank in range(shards):
        placement = Placement(strategy, shards, rank, local_devices=2)
        (stack,) = build_stacks(resolved.tables, "TPU", (), placement)
        keys = step_keys(resolved, stack, placement, seed, step)
        for number, config in enumerate(resolved.tables):
            ids = placement.ids(number, config.vocabulary_size)
            for local in range(2):
                rows = [*ids[placement.rows_of_device(number, local)]]
                record = stack.first_records[number] + torch.arange(len(rows)).int()
                table = torch.full_like(record, number)
                of_device = keys[local].to(device), record.to(device), table.to(device)
                found = random_bits(*of_device, dim).tolist()
                wanted = [random_bits_of(seed, config.name, step, row, dim) for row in rows]
                assert found == wanted
                seen += len(rows)
    assert seen == sum(table.vocabulary_size for table in resolved.tables)


def test_random_bits_are_spread_evenly_and_differ_from_row_to_row_step_to_step_and_column() -> None:
    resolved = tables_of(8, tte.SGD(), 1)
    (stack,) = build_stacks(resolved.tables, "CPU")
    record = torch.arange(2000, dtype=torch.int32)
    found = torch.stack(
        [
            random_bits(step_keys(resolved, stack, Placement(), 0, step)[0], record, record, 8)
            for step in range(4)
        ]
    ).double()
    assert found.min() >= 0
    assert found.max() < 2**16
    deviation = 2**16 / math.sqrt(12)
    assert abs(found.mean() - (2**16 - 1) / 2) < 4 * deviation / math.sqrt(found.numel())
    counts = torch.bincount((found.view(-1) / 2**12).int(), minlength=16)
    expected = found.numel() / 16
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi squared of 15, 1 in 10,000
    centred = (found - found.mean()) / deviation
    for one, other in (
        (centred[1:], centred[:-1]),
        (centred[:, 1:], centred[:, :-1]),
        (centred[..., 1:], centred[..., :-1]),
    ):
        assert abs((one * other).mean()) < 5 / math.sqrt(one.numel())


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
@given(st.data())
@settings(max_examples=20)
def test_whatever_bits_lie_in_a_record_the_new_ones_replace_them_and_no_others(
    kind: DeviceKind, data: st.DataObject
) -> None:
    dim = data.draw(st.sampled_from([1, 3, 4]))
    (stack,) = build_stacks(tables_of(dim, tte.Adagrad(), 1).tables, kind)
    layout = stack.arrays[0]

    def lanes(rows: int, width: int) -> Tensor:
        count = rows * width
        drawn = data.draw(st.lists(PATTERNS, min_size=count, max_size=count))
        return torch.tensor(drawn, dtype=torch.int32).view(rows, width)

    record = torch.tensor([2, 3, 7, stack.padding_record], dtype=torch.int32)
    valid = torch.tensor([True, True, True, False])[:, None]
    array = torch.zeros(layout.shape, dtype=torch.int32)
    held = array.view(-1, layout.record_width)
    used = sum(layout.widths)
    held[:10, :used] = lanes(10, used)
    before = gather_records(layout, array, record)
    assert torch.equal(before, held[record.long()])
    now = {name: lanes(4, width) for name, width in zip(layout.fields, layout.widths, strict=True)}
    changed = replace_packed(layout, array.clone(), record, before, now, valid)
    wanted = held.clone()
    wanted[record[:3].long(), :used] = torch.cat([*now.values()], dim=1)[:3]
    assert torch.equal(changed.view_as(held), wanted)


@pytest.mark.parametrize("dim", [1, 2, 5, 64])
def test_numbers_become_lanes_and_numbers_again(dim: int) -> None:
    (stack,) = build_stacks(tables_of(dim, tte.Adagrad(), 1).tables, "CPU")
    layout = stack.arrays[0]
    assert layout.dtype == torch.int32
    assert layout.widths == ((dim + 1) // 2, dim), "two weights to a lane, slots whole"
    weights = torch.randn(7, dim).bfloat16().float()
    slots = torch.randn(7, dim)
    for name, value in (("weight", weights), ("accumulators", slots)):
        lanes = lanes_of(layout, name, value)
        assert lanes.dtype == torch.int32
        assert torch.equal(numbers_of(layout, name, lanes), value)
        on_device = lanes_of(layout, name, value.to(runtime.device()))
        assert torch.equal(on_device.cpu(), lanes)
        assert torch.equal(numbers_of(layout, name, on_device).cpu(), value)


def test_a_number_that_bfloat16_lacks_is_named_with_the_remedy() -> None:
    values = floats([1.0, 0.1]).view(1, 2)
    reason = exact_or_reason(values, "here")
    assert reason == (
        "here: 0.10000000149011612 at [0, 1] is no number of bfloat16, the dtype of the table, and is not "
        "rounded unasked; round it with .bfloat16()"
    )
    assert exact_or_reason(values.bfloat16().float(), "here") is None

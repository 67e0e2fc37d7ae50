"""The sums of bags and of gradients where a kernel takes them, with plain torch in its place: the same
numbers as a gather and a scatter-add give, and only where the kernel pays."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from models.helpers import tensors
from programs import kernels_on_cpu
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.kernels import sum_rows as sums
from torch_tpu_embedding.program import lookup, stack_index, update

sizes = st.integers(1, 60_000)


@given(sizes, sizes, sizes, st.integers(1, 600))
def test_the_kernel_takes_what_fits_on_the_chip_and_has_more_to_add_than_to_bring(
    rows: int, lookups: int, segments: int, dim: int
) -> None:
    fits = sums.fits_kernel(rows, lookups, segments, dim)
    on_chip = (rows + segments) * -(-dim // 128) * 512
    if fits:
        assert 32 <= dim <= 256
        assert on_chip <= 12 << 20
        assert lookups >= max(rows + segments, 8192)
    elif 32 <= dim <= 256 and lookups >= max(rows + segments, 8192):
        assert on_chip > (12 << 20) - 20 * 512 * 8
    assert fits == sums.fits_kernel(segments, lookups, rows, dim), "so both sums go one way"


def test_narrow_rows_are_left_to_xla_for_the_kernel_costs_more_there() -> None:
    fits = {dim: sums.fits_kernel(7848, 16384, 4096, dim) for dim in (16, 31, 32, 192, 257)}
    assert fits == {16: False, 31: False, 32: True, 192: True, 257: False}


def features(dim: int) -> dict[str, tte.FeatureConfig]:
    """One table with ragged features and others, and one with ragged features alone."""
    both = tte.TableConfig(40, dim, name="both", combiner="sum")
    alone = tte.TableConfig(40, dim, name="alone", combiner="mean", optimizer=tte.SGD(0.1))
    return {
        "one": tte.FeatureConfig(both, name="one"),
        "bags": tte.FeatureConfig(both, name="bags"),
        "fixed": tte.FeatureConfig(both, name="fixed"),
        "more": tte.FeatureConfig(alone, name="more"),
    }


def batches() -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(1)

    def ids(*shape: int) -> Tensor:
        return torch.randint(0, 40, shape, generator=random)

    found = []
    for _ in range(4):
        lengths = torch.randint(0, 9, (2, 16), generator=random)
        lengths[:, :2] = torch.tensor([0, 30])
        ragged = [tte.Ragged.from_lengths(ids(int(each.sum())), each) for each in lengths]
        fixed = tte.Ragged.from_lengths(ids(48), torch.full((16,), 3))
        found.append({"one": ids(16), "bags": ragged[0], "fixed": fixed, "more": ragged[1]})
    return found


def train(dim: int, row_kernels: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The activations of some steps, and the tables after them."""
    embedding = tte.TPUEmbedding(
        features(dim), 16, tte.Adagrad(0.1), layout="TPU", seed=3, row_kernels=row_kernels
    )
    seen = []
    for batch in batches():
        rows = embedding(batch)
        torch.stack([each.square().sum() for each in rows.values()]).sum().backward()
        embedding.apply_gradients()
        seen += [each.detach().cpu() for each in rows.values()]
    return seen, tensors(embedding)


@pytest.mark.parametrize("dim", [32, 64, 130])
def test_steps_equal_those_without_kernels(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels_on_cpu.use(monkeypatch)
    monkeypatch.setattr(stack_index, "fits_kernel", lambda *sizes: True)
    called: list[int] = []

    def counted(*given: Any, **option: Any) -> Tensor:
        called.append(len(given[0]))
        return kernels_on_cpu.sums(*given, **option)

    monkeypatch.setattr(lookup, "sum_rows", counted)
    monkeypatch.setattr(update, "sum_rows", counted)
    found = train(dim, "on")
    calls = len(called)
    wanted = train(dim, "off")
    # the bags of two stacks, and the gradients of the one that has ragged features alone
    assert calls == 3 * len(batches())
    assert len(called) == calls + 2 * len(batches()), "without kernels the bags alone"
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)

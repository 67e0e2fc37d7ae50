"""When row kernels are used: the option, the environment variable, the device, and the check at build."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from programs import kernels_on_cpu
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.distributed.exchange import Local
from torch_tpu_embedding.distributed.group import Alone
from torch_tpu_embedding.kernels import self_check
from torch_tpu_embedding.kernels.choice import VARIABLE, wants_row_kernels
from torch_tpu_embedding.kernels.self_check import find_fault, kernels_work
from torch_tpu_embedding.kernels.sum_rows import sum_rows
from torch_tpu_embedding.kernels.write_rows import write_records
from torch_tpu_embedding.program import build
from torch_tpu_embedding.tables.layout import ArrayLayout

CPU = torch.device("cpu")


def layout(width: int, per_row: int = 1) -> ArrayLayout:
    return ArrayLayout(("weight",), (width,), width, per_row, 40, written_by_kernel=True)


EVERY_KIND = [layout(128), layout(384), layout(32, 4)]


@pytest.fixture(autouse=True)
def small_tables_are_written_by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels_on_cpu.take_few(monkeypatch)


def make(**options: Any) -> tte.TPUEmbedding:
    table = tte.TableConfig(50, 64, name="users", combiner="sum")
    return tte.TPUEmbedding([tte.FeatureConfig(table)], 4, tte.Adagrad(0.1), seed=3, **options)


def test_auto_is_off_and_the_environment_variable_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert [wants_row_kernels(each) for each in ("auto", "on", "off")] == [False, True, False]
    monkeypatch.setenv(VARIABLE, "on")
    assert [wants_row_kernels(each) for each in ("auto", "on", "off")] == [True, True, False]
    monkeypatch.setenv(VARIABLE, "off")
    assert [wants_row_kernels(each) for each in ("auto", "on", "off")] == [False, True, False]


def test_other_words_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="row_kernels must be one of 'auto', 'on', 'off', got 'yes'"
    ):
        make(row_kernels="yes")
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(ValueError, match=f"variable {VARIABLE} must be one of .* got '1'"):
        make()


@pytest.mark.parametrize("kind", ["CPU", "TPU"])
def test_no_kernel_is_traced_for_another_device(kind: Any) -> None:
    embedding = make(row_kernels="on", layout=kind)
    embedding.enable_metrics()
    embedding([torch.tensor([1, 2, 3, 3])])[0].sum().backward()
    embedding.apply_gradients()
    tte.runtime.sync()  # XLA's CPU device has no such kernel
    assert "scatter-add" in embedding.describe()
    assert "row kernel" not in embedding.describe()
    assert embedding.metrics()["row_kernels"] is False


def test_with_kernels_it_is_said_which_arrays_they_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "on_a_tpu", lambda: True)
    monkeypatch.setattr(build, "kernels_work", lambda exchange, arrays: True)
    embedding = make(row_kernels="on", layout="TPU")
    embedding.build()
    embedding.enable_metrics()
    assert "row kernel" in embedding.describe()
    assert "sums of ragged features: by a row kernel" in embedding.describe()
    assert embedding.metrics()["row_kernels"] is True
    rows = make(layout="TPU").read_rows("users", range(50))
    assert torch.equal(embedding.read_rows("users", range(50)), rows)


def test_the_check_passes_where_both_write_the_same(recwarn: pytest.WarningsRecorder) -> None:
    assert find_fault(Local(CPU), EVERY_KIND) is None
    assert kernels_work(Local(CPU), EVERY_KIND)
    assert not recwarn.list


def one_row_less(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    write_records(array, record, values, (count - 1).clamp(min=0))


def one_row_more(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    write_records(array, record, values, count + 1)


def neighbours(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    write_records(array, record ^ 1, values, count)


def other_bits(array: Tensor, record: Tensor, values: Tensor, count: Tensor) -> None:
    write_records(array, record, values + 0.0, count)  # nan, and -0.0 become others


@pytest.mark.parametrize("wrong", [one_row_less, one_row_more, neighbours, other_bits])
def test_a_kernel_that_writes_something_else_is_not_used(
    wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "write_records", wrong)
    with pytest.warns(
        RuntimeWarning, match="by XLA's scatter-add, not by row kernels, for a kernel wrote"
    ):
        assert not kernels_work(Local(CPU), EVERY_KIND)
    assert kernels_work(Local(CPU), [layout(32, 4)]), "its own kernel is well"


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_a_kernel_that_sums_something_else_is_not_used(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_sum_is_wrong(*given: Any) -> Tensor:
        sums = sum_rows(*given)
        sums[-1, -1] += wrong * given[-1]
        return sums

    monkeypatch.setattr(self_check, "sum_rows", one_sum_is_wrong)
    with pytest.warns(
        RuntimeWarning, match=r"a kernel summed otherwise than the scatter \(rows of 32 numbers\)"
    ):
        assert not kernels_work(Local(CPU), EVERY_KIND)
    assert kernels_work(Local(CPU), [layout(16, 8)]), "such rows are not summed by a kernel"


def test_a_kernel_that_fails_is_not_used_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Mosaic failed to compile")

    monkeypatch.setattr(build, "on_a_tpu", lambda: True)
    monkeypatch.setattr(self_check, "write_records", fail)
    with pytest.warns(
        RuntimeWarning, match="a kernel failed: RuntimeError: Mosaic failed to compile"
    ):
        embedding = make(row_kernels="on", layout="TPU")
    embedding.build()
    assert "row kernel" not in embedding.describe()
    embedding([torch.tensor([1, 2, 3, 3])])[0].sum().backward()
    embedding.apply_gradients()
    tte.runtime.sync()


def test_the_remedy_of_the_warning_leaves_the_check_out(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(build, "on_a_tpu", lambda: True)
    monkeypatch.setattr(build, "kernels_work", lambda *_: pytest.fail("was checked"))
    make(row_kernels="off", layout="TPU").build()
    assert not recwarn.list


def test_a_fault_on_one_process_keeps_all_from_using_kernels() -> None:
    class Group(Alone):
        def gather_objects(self, value: Any) -> list[Any]:
            return [value, "a kernel failed: on process 1"]

    exchange = Local(CPU)
    exchange.group = Group()
    with pytest.warns(RuntimeWarning, match="on process 1"):
        assert not kernels_work(exchange, EVERY_KIND)


def test_processes_meet_in_the_constructor_and_one_may_build_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met: list[Any] = []

    class Group(Alone):
        def scoped(self, scope: str) -> Group:
            return self

        def gather_objects(self, value: Any) -> list[Any]:
            met.append(value)
            return [value, None]

    class Exchange(Local):
        def __init__(self, device: torch.device, process_group: object) -> None:
            super().__init__(device)
            self.group = Group()

    monkeypatch.setattr(build, "on_a_tpu", lambda: True)
    monkeypatch.setattr(build, "choose_exchange", Exchange)
    monkeypatch.setattr(self_check, "find_fault", lambda exchange, arrays: None)
    embedding = make(row_kernels="on", layout="TPU")
    assert met == [None]
    embedding.build()
    assert met == [None]
    assert "row kernel" in embedding.describe()
